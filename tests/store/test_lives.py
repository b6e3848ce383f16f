from __future__ import annotations

import copy

import torch
from hypothesis import given

from lavakv.store.masked import MaskedStore
from lavakv.store.ragged import RaggedStore
from tests.store.strategies import Life, held_rows, lives


@given(lives())
def test_both_stores_hold_what_was_asked_for(life: Life) -> None:
    for store in (life.lead(RaggedStore()), life.lead(MaskedStore())):
        assert store.num_heads == life.keys.shape[1]
        assert store.past_counts() == life.counts[-1]
        assert store.tail_length == life.window + sum(keys.shape[2] for keys, _ in life.appended)
        for row, heads in enumerate(life.counts[-1]):
            for head, count in enumerate(heads):
                columns = store.past_columns(row, head)
                assert columns.dtype == torch.int64
                assert columns.tolist() == sorted(life.ranked[row][head, :count].tolist())


@given(lives())
def test_the_ragged_store_holds_the_right_rows_in_rank_order(life: Life) -> None:
    store = RaggedStore()
    life.lead(store)
    for row, heads in enumerate(life.counts[-1]):
        for head, count in enumerate(heads):
            keys, values, columns = held_rows(store, row, head)
            ranked = life.ranked[row][head, :count]
            assert columns == ranked.tolist()
            assert torch.equal(keys, life.keys[row, head, ranked])
            assert torch.equal(values, life.values[row, head, ranked])


@given(lives())
def test_the_tail_is_the_window_and_all_that_came_after(life: Life) -> None:
    store, masked = RaggedStore(), MaskedStore()
    life.lead(store)
    life.lead(masked)
    assert store.tail is not None
    assert masked.dense is not None
    evictable = life.keys.shape[2] - life.window
    keys = torch.cat([life.keys[:, :, evictable:], *(keys for keys, _ in life.appended)], dim=2)
    values = torch.cat([life.values[:, :, evictable:], *(values for _, values in life.appended)], dim=2)
    assert torch.equal(store.tail.keys, keys)
    assert torch.equal(store.tail.values, values)
    assert torch.equal(masked.dense.keys[:, :, evictable:], keys)
    assert torch.equal(masked.dense.values[:, :, evictable:], values)


@given(lives())
def test_a_store_holds_no_byte_more_than_its_entries(life: Life) -> None:
    life.appended = []  # spare room comes only with the first token
    store = RaggedStore()
    assert store.nbytes == 0
    life.lead(store)
    row_bytes = 4 * (life.keys.shape[3] + life.values.shape[3])
    entries = sum(map(sum, life.counts[-1])) + life.window * life.keys.shape[0] * life.keys.shape[1]
    assert store.nbytes == entries * row_bytes
    assert store.past is not None
    assert store.tail is not None
    owned = (store.past.keys, store.past.values, store.tail.keys, store.tail.values)
    assert sum(tensor.untyped_storage().nbytes() for tensor in owned) == store.nbytes


@given(lives())
def test_a_copy_lives_its_own_life(life: Life) -> None:
    for kind in (RaggedStore, MaskedStore):
        store = life.lead(kind())
        before = [[store.past_columns(row, head).tolist() for head in range(store.num_heads)] for row in (0,)]
        length = store.tail_length
        twin = copy.deepcopy(store)
        twin.trim([[0] * store.num_heads] * life.keys.shape[0])
        twin.append(life.keys[:, :, :1] * torch.nan, life.values[:, :, :1] * torch.nan)
        assert [[store.past_columns(row, head).tolist() for head in range(store.num_heads)] for row in (0,)] == before
        assert store.tail_length == length
        assert twin.past_counts() == [[0] * store.num_heads] * life.keys.shape[0]
