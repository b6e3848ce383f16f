"""The step as an operator of PyTorch: what compilers are told about it is true, and it computes what the store does."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from torch import Tensor

from lavakv import UnsupportedError
from lavakv.attention import AttentionRequest, AttentionSettings, operator
from lavakv.attention.operator import StoreTensors
from lavakv.attention.static import append_and_attend
from lavakv.store.ragged import RaggedStore
from tests.attention.kernel_cases import SKEWED, case

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "one query head a KV head": {"group": 1},
    "softcap": {"softcap": 2.0},
    "sinks": {"sinks": True},
    "masked": {"masked": True},
    "past masked": {"past_masked": True},
    "two queries": {"num_queries": 2},
    "everything": {"softcap": 2.0, "sinks": True, "masked": True, "past_masked": True, "num_queries": 3},
    "no survivors": {"counts": [[0, 0], [0, 0]], "sinks": True},
    "one survivor": {"counts": [[0, 1], [0, 0]]},
    "one sequence": {"counts": [[7, 7, 7]]},
}


def _step(dtype: torch.dtype, counts: list[list[int]] = SKEWED, **settings: Any) -> tuple[RaggedStore, Any]:
    """A store with capacity for three more columns, and what a step on it is called with."""
    example = case(dtype, 16, counts, **settings)
    store = example.fill(RaggedStore())
    assert isinstance(store, RaggedStore)
    assert store.tail is not None
    num_queries = example.request.queries.shape[2]
    store.tail.reserve(3)
    request, capacity = example.request, store.tail.buffers[0].shape[2]
    if request.tail_mask is not None:
        given = request.tail_mask  # of the tail as it is: its last queries stand for the new ones
        mask = torch.zeros(*given.shape[:3], capacity, dtype=torch.bool)
        mask[..., : given.shape[3]] = given
        mask[..., store.tail.length : store.tail.length + num_queries] = given[..., -num_queries:]
        request = request._replace(tail_mask=mask)
    new = torch.randn(len(counts), len(counts[0]), num_queries, 16, generator=torch.Generator().manual_seed(1)).to(
        dtype
    )
    return store, (new, -new, request, torch.tensor([store.tail.length]))


def _arguments(layer: StoreTensors, keys: Tensor, values: Tensor, request: AttentionRequest, length: Tensor) -> Any:
    queries, (scaling, softcap, sinks), *masks = request
    return (queries, keys, values, *layer, length, *masks, sinks, scaling, softcap)


@pytest.mark.parametrize("name", CASES)
def test_what_is_declared_of_it_is_true(name: str) -> None:
    store, arguments = _step(torch.float32, **CASES[name])
    called_with = _arguments(StoreTensors.of(store), *arguments)
    torch.library.opcheck(torch.ops.lavakv.append_and_attend.default, called_with)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_it_computes_and_writes_what_the_store_does(name: str, dtype: torch.dtype) -> None:
    store, arguments = _step(dtype, **CASES[name])
    twin = copy.deepcopy(store)
    got = StoreTensors.of(store).attend(*arguments)
    expected = append_and_attend(twin, *arguments)
    assert store.tail is not None
    assert twin.tail is not None
    assert torch.equal(got, expected.transpose(1, 2))
    assert got.is_contiguous()
    end = twin.tail.length + arguments[0].shape[2]
    for mine, other in zip(store.tail.buffers, twin.tail.buffers, strict=True):
        assert torch.equal(mine[:, :, :end], other[:, :, :end])
        assert not torch.equal(mine[:, :, twin.tail.length : end], torch.zeros(()).expand_as(arguments[0]))


def test_copies_of_the_tensors_do_as_well_as_the_store_s_own() -> None:
    store, arguments = _step(torch.float32)
    layer = StoreTensors.of(store)
    own = layer.attend(*arguments)
    copies = StoreTensors(*(part.clone() for part in layer))
    assert torch.allclose(copies.attend(*arguments), own, atol=1e-6)


def test_the_past_of_a_store_that_is_gone_is_forgotten() -> None:
    before = len(operator._pasts)
    store, _ = _step(torch.float32)
    layer = StoreTensors.of(store)
    assert len(operator._pasts) == before + 1
    del store
    gc.collect()
    assert len(operator._pasts) == before
    assert layer.offsets[-1] == sum(map(sum, SKEWED))


def test_gradients_are_refused_by_name() -> None:
    store, (keys, values, request, length) = _step(torch.float32)
    queries = request.queries.requires_grad_()
    with pytest.raises(UnsupportedError, match="without gradients"):
        StoreTensors.of(store).attend(keys, values, request, length)
    with torch.no_grad():
        found = StoreTensors.of(store).attend(keys, values, request._replace(queries=queries), length)
    assert not found.requires_grad


def test_a_compiled_function_of_it_has_one_graph_for_layers_that_hold_unequally_much() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def step(layer: StoreTensors, keys: Tensor, queries: Tensor, length: Tensor) -> Tensor:
        request = AttentionRequest(queries * 2, AttentionSettings(0.25))
        return layer.attend(keys + 1, keys - 1, request, length) + 1

    torch._dynamo.reset()
    compiled = torch.compile(step, backend=backend, fullgraph=True)
    for counts in ([[0, 90], [1, 3]], [[5, 5], [5, 5]], [[0, 0], [0, 0]], [[0, 1], [0, 0]], [[60, 2], [3, 4]]):
        store, (keys, _, request, length) = _step(torch.float32, counts)
        twin, layer = copy.deepcopy(store), StoreTensors.of(store)
        layer.mark_sizes_dynamic()
        got = compiled(layer, keys, request.queries, length)
        expected = append_and_attend(
            twin, keys + 1, keys - 1, AttentionRequest(request.queries * 2, AttentionSettings(0.25)), length
        )
        assert torch.equal(got, expected.transpose(1, 2) + 1)
    assert len(graphs) == 1
