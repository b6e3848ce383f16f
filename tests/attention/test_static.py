"""The decode step that a CUDA graph can hold: only contents of device tensors change between calls."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch

from tests.attention.interpreter import repaired_interpreter  # first: it skips where Triton is missing

from lavakv import InputError, UnsupportedError  # isort: skip
from lavakv.attention import AttentionRequest
from lavakv.attention.ragged import attend_ragged
from lavakv.attention.static import append_and_attend
from lavakv.attention.triton import launch
from lavakv.store.quantised import QuantisedStore
from lavakv.store.ragged import RaggedStore
from tests.attention.cases import Case
from tests.attention.kernel_cases import case, in_float64, typical
from tests.attention.test_stores import conditions

STEPS = 5


@pytest.fixture(autouse=True)
def _interpreter() -> Iterator[None]:
    with repaired_interpreter():
        yield


def _filled(example: Case, room: int) -> RaggedStore:
    with conditions(with_operator=True):  # spare room is full of NaN
        store = example.fill(RaggedStore())
        assert isinstance(store, RaggedStore)
        assert store.tail is not None
        store.tail.reserve(room)
    return store


@pytest.mark.parametrize("num_queries", [1, 2])
def test_steps_of_one_graph_equal_growing_steps(monkeypatch: pytest.MonkeyPatch, num_queries: int) -> None:
    monkeypatch.setattr(launch, "tile_size", lambda *_: 8)  # the tail spans several tiles, some of them still empty
    example = case(torch.float32, 16)
    store, heads = _filled(example, STEPS * num_queries), example.keys.shape[1]
    twin, tail = copy.deepcopy(store), store.tail
    assert tail is not None
    capacity = tail.buffers[0].shape[2]
    keys, values = torch.zeros(2, heads, num_queries, 16), torch.zeros(2, heads, num_queries, 16)
    queries, mask = torch.zeros(2, 3 * heads, num_queries, 16), torch.ones(2, 1, num_queries, capacity).bool()
    length = torch.tensor([tail.length])
    request = AttentionRequest(queries, example.request.settings, mask)
    for _ in range(STEPS):
        for static in (keys, values, queries):
            static.copy_(torch.randn(static.shape))
        assert twin.tail is not None
        end = twin.tail.length + num_queries
        mask.copy_(torch.rand(mask.shape) < 0.7)
        mask[..., end - num_queries : end] = torch.ones(num_queries, num_queries).bool().tril()
        got = append_and_attend(store, keys, values, request, length)
        twin.append(keys, values)
        visible = mask[..., :end].clone()
        expected = attend_ragged(twin, request._replace(tail_mask=visible))
        exact = attend_ragged(in_float64(twin), AttentionRequest(queries.double(), request.settings, visible))
        assert typical(got, exact) <= 2 * typical(expected, exact)
        length += num_queries
    tail.advance(STEPS * num_queries)
    assert torch.equal(tail.keys, twin.tail.keys)
    assert torch.equal(tail.values, twin.tail.values)
    assert int(length) == tail.length


def test_a_step_can_be_repeated_as_a_warm_up() -> None:
    example = case(torch.bfloat16, 16)
    store = _filled(example, 3)
    assert store.tail is not None
    length, new = torch.tensor([store.tail.length]), torch.randn(2, 2, 1, 16).bfloat16()
    answers = [append_and_attend(store, new, new, example.request, length) for _ in range(3)]
    assert torch.equal(answers[0], answers[2])


def test_what_the_kernels_cannot_take_is_refused_by_name() -> None:
    example = case(torch.float64, 16)
    new = example.keys[:, :, :1]
    with pytest.raises(UnsupportedError, match="float64 is neither"):
        append_and_attend(_filled(example, 1), new, new, example.request, torch.tensor([6]))


def test_a_past_in_fewer_bits_is_refused_by_name() -> None:
    example = case(torch.float32, 16)
    store, new = example.fill(QuantisedStore(4)), example.keys[:, :, :1]
    assert isinstance(store, QuantisedStore)
    with pytest.raises(UnsupportedError, match="got a past in 4 bits"):
        append_and_attend(store, new, new, example.request, torch.tensor([6]))
    assert store.num_columns == example.keys.shape[2]


def test_several_queries_need_a_mask() -> None:
    example = case(torch.float32, 16, num_queries=2)
    new = example.keys[:, :, :2]
    with pytest.raises(InputError, match="several queries"):
        append_and_attend(_filled(example, 2), new, new, example.request._replace(tail_mask=None), torch.tensor([7]))
