"""Stores let go of the prompt's tensors and of the autograd graph behind them."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from lavakv.store.base import LayerStore
from lavakv.store.masked import MaskedStore
from lavakv.store.ragged import RaggedStore

STORES = pytest.mark.parametrize("kind", [RaggedStore, MaskedStore])
RANKED = [torch.arange(4).flip(0).expand(2, 4)]


def _graph(columns: int) -> torch.Tensor:
    """Keys with a graph behind them, `[1, 2, columns, 3]`."""
    return 2 * torch.randn(1, 2, columns, 3, requires_grad=True)


def _tensors(store: LayerStore) -> list[torch.Tensor]:
    if isinstance(store, RaggedStore):
        assert store.past is not None
        assert store.tail is not None
        cut = [tensor for segment in store.past.segments for tensor in segment]
        return [store.past.keys, store.past.values, store.tail.keys, store.tail.values, *cut]
    assert isinstance(store, MaskedStore)
    assert store.dense is not None
    return [store.dense.keys, store.dense.values]


@STORES
def test_stored_tensors_are_detached(kind: type[LayerStore]) -> None:
    store = kind()
    store.hold(_graph(6), _graph(6))
    store.keep(RANKED, [[1, 3]], window=2)
    store.trim([[1, 2]])
    store.append(_graph(1), _graph(1))
    for tensor in _tensors(store):
        assert not tensor.requires_grad
        assert tensor.grad_fn is None


@STORES
def test_the_prompts_tensors_are_freed_once_evicted(kind: type[LayerStore]) -> None:
    store = kind()
    hidden = torch.randn(1, 2, 6, 3, requires_grad=True)
    keys, values = 2 * hidden, 3 * hidden
    graph = weakref.ref(hidden)  # kept alive by the graph of whatever was computed from it
    storages = [weakref.ref(tensor.untyped_storage()) for tensor in (keys, values)]
    del hidden
    gc.collect()
    assert graph() is not None
    assert all(storage() is not None for storage in storages)
    store.hold(keys, values)
    store.keep(RANKED, [[1, 3]], window=2)
    stored = {tensor.untyped_storage().data_ptr() for tensor in _tensors(store)}
    assert not stored & {keys.untyped_storage().data_ptr(), values.untyped_storage().data_ptr()}
    del keys, values
    gc.collect()
    assert graph() is None
    assert all(storage() is None for storage in storages)


@STORES
def test_writing_to_the_prompts_tensors_changes_nothing_stored(kind: type[LayerStore]) -> None:
    store, keys, values = kind(), torch.randn(1, 2, 6, 3), torch.randn(1, 2, 6, 3)
    new_keys, new_values = torch.randn(1, 2, 1, 3), torch.randn(1, 2, 1, 3)
    store.hold(keys, values)
    store.keep(RANKED, [[4, 4]], window=2)
    store.append(new_keys, new_values)
    before = [tensor.clone() for tensor in _tensors(store)]
    for tensor in (keys, values, new_keys, new_values):
        tensor.fill_(torch.nan)
    assert all(torch.equal(tensor, old) for tensor, old in zip(_tensors(store), before, strict=True))


def test_a_trim_frees_what_it_cuts() -> None:
    store = RaggedStore()
    store.hold(torch.randn(1, 2, 6, 3), torch.randn(1, 2, 6, 3))
    store.keep(RANKED, [[4, 4]], window=2)
    assert store.past is not None
    old = weakref.ref(store.past.keys.untyped_storage())
    gc.collect()
    assert old() is not None
    store.trim([[0, 0]])
    gc.collect()
    assert old() is None
    assert store.past.num_entries == 0
    assert store.nbytes == 2 * 2 * 2 * 3 * 4


def test_a_trim_never_asks_for_more_than_there_is() -> None:
    store = RaggedStore()
    store.hold(torch.randn(1, 2, 6, 3), torch.randn(1, 2, 6, 3))
    store.keep(RANKED, [[1, 2]], window=2)
    with pytest.raises(AssertionError):
        store.trim([[2, 2]])
