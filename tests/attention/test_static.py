"""The decode step that a CUDA graph can hold: only contents of device tensors change between calls."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from tests.attention.interpreter import repaired_interpreter  # first: it skips where Triton is missing

from lavakv import InputError, UnsupportedError  # isort: skip
from lavakv.attention import AttentionRequest, plan
from lavakv.attention.ragged import attend_ragged
from lavakv.attention.static import append_and_attend
from lavakv.attention.triton import launch
from lavakv.kernels import Fallback
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


@pytest.fixture(params=[True, False], ids=["kernels", "operators"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the Triton kernels are expected to serve."""
    monkeypatch.setattr(plan, "fallback", Fallback("decoding"))
    plan.fallback.on_cpu = expected = bool(request.param)
    return expected


class Recording(TorchDispatchMode):
    """The operators that a call went through, and their tensors; `replay` calls them again, as a CUDA graph would."""

    def __init__(self, step: Callable[[], Tensor]) -> None:
        super().__init__()
        self._calls: list[tuple[Any, ...]] = []
        with self:
            self._output = step()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, found))
        return found

    def replay(self) -> Tensor:
        """What the call gives with the tensors as they are now."""
        made: dict[int, Any] = {}
        for func, args, kwargs, before in self._calls:
            again = func(
                *tree_map(lambda x: made.get(id(x), x), args), **tree_map(lambda x: made.get(id(x), x), kwargs)
            )
            pairs = zip(before, again, strict=True) if isinstance(before, tuple | list) else [(before, again)]
            made.update((id(old), new) for old, new in pairs)
        found = made[id(self._output)]
        assert isinstance(found, Tensor)
        return found


def _filled(example: Case, room: int) -> RaggedStore:
    with conditions(with_operator=True):  # spare room is full of NaN
        store = example.fill(RaggedStore())
        assert isinstance(store, RaggedStore)
        assert store.tail is not None
        store.tail.reserve(room)
    return store


@pytest.mark.parametrize("num_queries", [1, 2])
def test_steps_of_one_graph_equal_growing_steps(
    kernels: bool, monkeypatch: pytest.MonkeyPatch, num_queries: int
) -> None:
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


@pytest.mark.parametrize("counts", [[[0, 90], [1, 3]], [[4, 4], [4, 4]], [[0, 0], [0, 0]], [[0, 130], [0, 0]]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_the_operators_of_one_step_do_the_next_ones(dtype: torch.dtype, counts: Any, softcap: float | None) -> None:
    torch.manual_seed(0)
    example = case(dtype, 16, counts, softcap=softcap, sinks=True, past_masked=softcap is not None)
    store = _filled(example, STEPS)
    twin, tail = copy.deepcopy(store), store.tail
    assert tail is not None
    new, queries = (torch.zeros(2, rows, 1, 16, dtype=dtype) for rows in (2, 6))
    length = torch.tensor([tail.length])
    request = example.request._replace(queries=queries)
    assert request.settings.sinks is not None
    exact_settings = request.settings._replace(sinks=request.settings.sinks.double())

    def step() -> Tensor:
        return append_and_attend(store, new, new, request, length)

    step()  # plans the blocks
    recording = Recording(step)
    for _ in range(STEPS):
        new.copy_(torch.randn(new.shape))
        queries.copy_(torch.randn(queries.shape))
        got = recording.replay()
        twin.append(new, new)
        expected = attend_ragged(twin, request)
        exact = attend_ragged(in_float64(twin), request._replace(queries=queries.double(), settings=exact_settings))
        assert typical(got, exact) <= 2 * typical(expected, exact)
        length += 1
    assert twin.tail is not None
    tail.advance(STEPS)
    assert torch.equal(tail.keys, twin.tail.keys)


def test_a_step_can_be_repeated_as_a_warm_up(kernels: bool) -> None:
    example = case(torch.bfloat16, 16)
    store = _filled(example, 3)
    assert store.tail is not None
    length, new = torch.tensor([store.tail.length]), torch.randn(2, 2, 1, 16).bfloat16()
    answers = [append_and_attend(store, new, new, example.request, length) for _ in range(3)]
    assert torch.equal(answers[0], answers[2])


def test_what_the_kernels_cannot_take_is_served_by_operators_and_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "fallback", Fallback("decoding"))
    plan.fallback.on_cpu = True
    example = case(torch.float64, 16)
    store, new = _filled(example, 1), example.keys[:, :, :1]
    twin = copy.deepcopy(store)
    assert store.tail is not None
    with pytest.warns(UserWarning, match="float64 is neither"):
        got = append_and_attend(store, new, new, example.request, torch.tensor([store.tail.length]))
    twin.append(new, new)
    assert torch.allclose(got, attend_ragged(twin, example.request), rtol=1e-12, atol=1e-12)


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
