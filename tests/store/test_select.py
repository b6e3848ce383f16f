"""Sequences of a store moved, repeated and dropped, and its end taken off."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavakv.errors import InputError
from lavakv.store.base import StoreSnapshot
from lavakv.store.growing import GrowingKeyValues
from lavakv.store.masked import MaskedStore
from lavakv.store.past import RaggedPast
from lavakv.store.ragged import RaggedStore
from tests.store.strategies import Life, lives


def assert_same(one: StoreSnapshot, other: StoreSnapshot) -> None:
    assert one.num_columns == other.num_columns
    assert all(torch.equal(a, b) for a, b in zip(one[:6], other[:6], strict=True))


@given(lives(), st.data())
def test_select_is_a_choice_from_what_is_held(life: Life, data: st.DataObject) -> None:
    """Several times in a row, so that sequences with the same past meet each other."""
    stores = [life.lead(RaggedStore()), life.lead(MaskedStore())]
    for _ in range(3):
        batch = len(stores[0].past_counts())
        sequences = data.draw(st.lists(st.integers(0, batch - 1), min_size=1, max_size=5))
        for store in stores:
            expected = store.snapshot().of_sequences(sequences)
            store.select(sequences)
            assert_same(store.snapshot(), expected)
            assert len(store.bytes_by_sequence()) == len(sequences)
            generator = torch.Generator().manual_seed(1)
            new = [
                torch.randn(len(sequences), *part.shape[1:2], 2, part.shape[3], generator=generator)
                for part in (life.keys, life.values)
            ]
            store.append(*new)
            assert torch.equal(store.snapshot().tail_keys[:, :, -2:], new[0])
        assert_same(stores[0].snapshot(), stores[1].snapshot())


@given(lives(), st.data())
def test_a_store_before_some_column(life: Life, data: st.DataObject) -> None:
    """`truncate_past` leaves the entries of the columns before, in their order, and no tail."""
    for store in (life.lead(RaggedStore()), life.lead(MaskedStore())):
        before, left = store.snapshot(), data.draw(st.integers(0, store.num_columns - store.tail_length))
        store.truncate_past(store.num_columns - left)
        assert (store.num_columns, store.tail_length) == (left, 0)
        after = store.snapshot()
        kept = before.past_columns < left
        assert torch.equal(after.past_columns, before.past_columns[kept])
        assert torch.equal(after.past_keys, before.past_keys[kept])
        assert torch.equal(after.past_values, before.past_values[kept])


def _store(batch: int = 4) -> RaggedStore:
    store = RaggedStore()
    keys = torch.randn(batch, 2, 9, 3, generator=torch.Generator().manual_seed(0))
    store.hold(keys, keys + 1)
    store.keep([torch.randperm(6).expand(2, 6) for _ in range(batch)], [[3, 2]] * batch, 3)
    return store


def test_equal_pasts_stay_where_they_are_until_the_past_changes() -> None:
    store = _store()
    store.select([0, 0, 2, 2])
    past = store.past
    store.select([1, 0, 3, 3])
    assert store.past is past
    store.select([1, 0, 2])  # fewer sequences are another past
    assert store.past is not past
    past = store.past
    store.select([1, 0, 2])
    assert store.past is past
    store.trim([[1, 1]] * 3)  # whatever replaces the past, nobody knows any more what is equal
    past = store.past
    store.select([1, 0, 2])
    assert store.past is not past


def test_what_is_equal_is_known_in_a_copy() -> None:
    store = _store()
    store.select([0, 0, 2, 2])
    twin = copy.deepcopy(store)
    past = twin.past
    assert isinstance(past, RaggedPast)
    twin.select([1, 1, 2, 3])
    assert twin.past is past


@pytest.mark.parametrize("sequences", [[1, 0, 2], [2, 2, 2], [0, 1, 2], [2], [0, 1, 2, 2, 1]])
def test_a_tail_keeps_its_capacity(sequences: list[int]) -> None:
    keys = torch.arange(3.0)[:, None, None, None].expand(3, 2, 4, 5).clone()
    tail = GrowingKeyValues(keys, keys + 10)
    tail.reserve(6)
    buffers = [buffer.data_ptr() for buffer in tail.buffers]
    tail.select(sequences)
    assert tail.keys[:, 0, 0, 0].tolist() == sequences
    assert tail.values[:, 0, 0, 0].tolist() == [10 + sequence for sequence in sequences]
    assert tail.buffers[0].shape == (len(sequences), 2, 10, 5)
    if len(sequences) == 3:
        assert [buffer.data_ptr() for buffer in tail.buffers] == buffers
    now = tail.buffers[0].data_ptr()
    tail.append(*(torch.zeros(len(sequences), 2, 6, 5),) * 2)
    assert tail.buffers[0].data_ptr() == now


def test_a_past_is_not_truncated_by_truncate() -> None:
    with pytest.raises(InputError, match="num_columns"):
        _store().truncate(4)
