"""Rounds on a layer that is ragged already."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavakv import InputError
from lavakv.store.base import LayerStore
from lavakv.store.masked import MaskedStore
from lavakv.store.ragged import RaggedStore
from tests.store.rounds import Rounds, rounds

KINDS = (RaggedStore, MaskedStore)


def _assert_holds(store: LayerStore, life: Rounds) -> None:
    assert store.past_counts() == life.counts()
    assert store.num_columns == life.num_columns
    assert store.tail_length == life.num_columns - life.tail_start
    for sequence, heads in enumerate(life.past):
        for head, row in enumerate(heads):
            columns = [*sorted(row), *range(life.tail_start, life.num_columns)]
            held = store.read(sequence, head)
            assert held.columns.tolist() == columns
            assert held.keys.equal(life.keys[sequence, head, columns])
            assert held.values.equal(life.values[sequence, head, columns])
            assert store.past_columns(sequence, head).tolist() == sorted(row)


@settings(max_examples=60, deadline=None)
@given(rounds())
def test_rounds_keep_what_they_are_told_to(life: Rounds) -> None:
    for store in life.stores:
        _assert_holds(store, life)


@settings(max_examples=60, deadline=None)
@given(rounds(), st.data())
def test_candidates_are_the_past_and_what_is_due(life: Rounds, data: st.DataObject) -> None:
    window = data.draw(st.integers(0, life.num_columns - life.tail_start))
    for store in life.stores:
        for sequence, heads in enumerate(life.past):
            due = life.due(sequence, window)
            found = store.candidates(sequence, torch.tensor(due, dtype=torch.int64), window)
            places = max(found.caps)
            assert found.keys.shape[:2] == found.values.shape[:2] == (len(heads), places + window)
            for head, row in enumerate(heads):
                columns = sorted(row) + due
                end = list(range(life.num_columns - window, life.num_columns))
                cap = len(columns)
                assert found.caps[head] == cap
                assert found.columns[head].tolist() == columns + [-1] * (places - cap)
                for table, whole in ((found.keys, life.keys), (found.values, life.values)):
                    assert table[head, :cap].equal(whole[sequence, head, columns])
                    assert not table[head, cap:places].any()
                    assert table[head, places:].equal(whole[sequence, head, end])


@settings(max_examples=40, deadline=None)
@given(rounds(), st.data())
def test_keep_after_keep_is_one_keep_of_the_intersection(life: Rounds, data: st.DataObject) -> None:
    """A store that gets every column at once and evicts once ends as one that went through all rounds."""
    window = life.num_columns - life.tail_start
    widest = max(len(row) for heads in life.past for row in heads)
    ranked = [
        torch.tensor([row + [-1] * (widest - len(row)) for row in heads], dtype=torch.int64).view(len(heads), widest)
        for heads in life.past
    ]
    for kind in KINDS:
        once = kind()
        once.hold(life.keys, life.values)
        once.keep(ranked, life.counts(), window)
        _assert_holds(once, life)
    ragged = life.stores[0]
    assert isinstance(ragged, RaggedStore)
    assert ragged.past is not None
    assert ragged.past.columns.tolist() == [column for heads in life.past for row in heads for column in row]


@settings(max_examples=40, deadline=None)
@given(rounds(), st.sampled_from(KINDS), st.integers(1, 3))
def test_a_restored_snapshot_lives_on_by_itself(life: Rounds, kind: type[LayerStore], more: int) -> None:
    for store in life.stores:
        snapshot = store.snapshot()
        other = copy.deepcopy(life)
        store.append(torch.full_like(life.keys[:, :, :1], torch.nan), torch.full_like(life.values[:, :, :1], torch.nan))
        store.truncate(1)
        twin = kind()
        twin.restore(snapshot)
        _assert_holds(twin, life)
        other.stores = (twin,)
        other.append(more)
        other.truncate(1)
        other.round(0, 1)
        _assert_holds(twin, other)
        _assert_holds(store, life)


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_tail_is_contiguous_whatever_the_strides_of_the_prompt(kind: type[LayerStore]) -> None:
    """Kernels read the tail by address: the masked store keeps the strides that the model gave a prompt."""
    store, twin = kind(), RaggedStore()
    store.hold(*(torch.rand(1, 6, 2, 3).transpose(1, 2) for _ in range(2)))
    store.keep([torch.arange(4).expand(2, -1)], [[1, 2]], 2)
    twin.restore(store.snapshot())
    assert twin.tail is not None
    assert all(part.is_contiguous() for part in twin.tail.buffers)
    assert twin.read(0, 1).keys.equal(store.read(0, 1).keys)


def _short() -> list[LayerStore]:
    stores: list[LayerStore] = [kind() for kind in KINDS]
    for store in stores:
        store.hold(torch.rand(1, 2, 6, 3), torch.rand(1, 2, 6, 3))
        store.keep([torch.arange(4).expand(2, -1)], [[1, 2]], 2)
    return stores


@pytest.mark.parametrize("num_columns", [-1, 3])
def test_only_the_tail_can_be_cut(num_columns: int) -> None:
    for store in _short():
        with pytest.raises(InputError, match="num_columns: expected 0 to 2, the columns of the tail"):
            store.truncate(num_columns)
        assert (store.num_columns, store.tail_length) == (6, 2)


def test_entry_bytes_are_those_of_a_key_and_a_value() -> None:
    for store in _short():
        assert store.entry_bytes == 2 * 3 * 4
