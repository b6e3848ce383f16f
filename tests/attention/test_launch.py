"""What a step costs the host: one allocation, one launch by the handle of the compiled kernel, nothing for no masks."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.attention.interpreter import repaired_interpreter  # first: it skips where Triton is missing

import lavakv  # isort: skip
from lavakv.attention import AttentionRequest, plan
from lavakv.attention.triton import kernel as kernels
from lavakv.attention.triton import launch
from lavakv.attention.triton.masks import kernel_masks
from lavakv.store.past import RaggedPast
from lavakv.store.ragged import RaggedStore
from tests.attention.cases import Case
from tests.attention.kernel_cases import assert_as_good_as_pytorch, case
from tests.attention.test_triton import kernel


class Compiled:
    """A kernel as Triton returns it: takes all parameters by position, in their order, and no options."""

    def __init__(self, interpreted: Any, num_parameters: int) -> None:
        self.launches = 0
        self._interpreted, self._num_parameters = interpreted, num_parameters

    def __getitem__(self, grid: tuple[int, int, int]) -> Any:
        def run(*arguments: object) -> None:
            if len(arguments) != self._num_parameters:
                raise TypeError(f"function takes exactly {self._num_parameters} arguments")
            self.launches += 1
            self._interpreted[grid](*arguments)

        return run


class Compiler:
    """A kernel that is compiled by its first launch, once for each kind of arguments, and returned."""

    def __init__(self, interpreted: Any, num_parameters: int | None = None) -> None:
        self.launches, self.compiled = 0, list[Compiled]()
        self._interpreted = interpreted
        self._num_parameters = num_parameters or len(
            interpreted.fn.__code__.co_varnames[: interpreted.fn.__code__.co_argcount]
        )

    def __getitem__(self, grid: tuple[int, int, int]) -> Any:
        def run(*arguments: object, num_warps: int, num_stages: int = 0, **constants: object) -> Compiled:
            self.launches += 1
            self._interpreted[grid](*arguments, **constants)
            self.compiled.append(Compiled(self._interpreted, self._num_parameters))
            return self.compiled[-1]

        return run


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(launch, "_launches", {})
    with repaired_interpreter():
        yield


def replaced(monkeypatch: pytest.MonkeyPatch, num_parameters: int | None = None) -> list[Compiler]:
    found = [Compiler(each, num_parameters) for each in (kernels.attend_tile, kernels.merge_tiles)]
    monkeypatch.setattr(kernels, "attend_tile", found[0])
    monkeypatch.setattr(kernels, "merge_tiles", found[1])
    return found


@pytest.mark.parametrize("max_merge_bytes", [0, 2**30])
@pytest.mark.parametrize(
    "settings", [{}, {"masked": True, "past_masked": True, "sinks": True, "softcap": 2.0}], ids=str
)
def test_later_launches_use_what_the_first_compiled(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], max_merge_bytes: int
) -> None:
    monkeypatch.setattr(launch, "MAX_MERGE_BYTES", max_merge_bytes)
    example = case(torch.float32, 16, **settings)
    store = example.fill(RaggedStore())
    expected = kernel(store, example.request)
    monkeypatch.setattr(launch, "_launches", {})
    attend, merge = replaced(monkeypatch)
    for _ in range(3):
        assert torch.equal(kernel(store, example.request), expected)
    assert (attend.launches, [each.launches for each in attend.compiled]) == (1, [2])
    assert (merge.launches, [each.launches for each in merge.compiled]) == ((0, []) if max_merge_bytes else (1, [2]))


def test_growing_tails_use_the_same_compiled_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer tails, larger buffers, other masks: none of it is what a kernel is compiled for."""
    example = case(torch.float32, 16, masked=True)
    store = example.fill(RaggedStore())
    attend, _ = replaced(monkeypatch)
    for _ in range(40):
        store.append(torch.randn(2, 2, 1, 16), torch.randn(2, 2, 1, 16))
        mask = torch.ones(2, 1, 1, store.tail_length).bool()
        kernel(store, example.request._replace(tail_mask=mask))
    assert attend.launches == 1
    assert attend.compiled[0].launches == 39


def other_requests(example: Case) -> dict[str, AttentionRequest]:
    """Requests that Triton compiles another kernel for."""
    request, queries = example.request, example.request.queries
    tail = example.keys.shape[2] - example.ranked[0].shape[1]
    unaligned = queries.new_empty(queries.numel() + 1)[1:].view(queries.shape).copy_(queries)
    mask, columns = torch.ones(2, 1, 1, tail).bool(), example.ranked[0].shape[1]
    return {
        "strides": request._replace(queries=queries.repeat(1, 1, 1, 2)[..., :16]),
        "unaligned": request._replace(queries=unaligned),
        "mask": request._replace(tail_mask=mask),
        "strided mask": request._replace(tail_mask=mask.repeat_interleave(2, dim=3)[..., ::2]),
        "mask of the past": request._replace(past_mask=torch.ones(2, 1, 1, columns).bool()),
        "softcap": request._replace(settings=request.settings._replace(softcap=1e6)),
        "sinks": request._replace(settings=request.settings._replace(sinks=torch.full((6,), -1e4))),
    }


def test_what_triton_compiles_another_kernel_for_is_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    example = case(torch.float32, 16)
    store = example.fill(RaggedStore())
    attend, _ = replaced(monkeypatch)
    kernel(store, example.request)
    for number, (name, request) in enumerate(other_requests(example).items(), start=2):
        for _ in range(2):
            assert_as_good_as_pytorch(example, kernel(store, request))
        assert attend.launches == number, name
        assert attend.compiled[-1].launches == 1, name


def test_each_unaligned_tensor_is_another_kernel_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled for queries at an odd address may load keys as if theirs were even."""
    example = case(torch.float32, 16)
    store, unaligned = example.fill(RaggedStore()), other_requests(example)["unaligned"]
    past = store.past
    assert past is not None
    keys = past.keys.new_empty(past.keys.numel() + 1)[1:].view(past.keys.shape).copy_(past.keys)
    other = copy.copy(store)
    other.past = RaggedPast(keys, past.values, past.columns, past.lengths())
    attend, _ = replaced(monkeypatch)
    for number, (held, request) in enumerate(
        [(store, example.request), (store, unaligned), (other, example.request), (other, unaligned)], start=1
    ):
        assert_as_good_as_pytorch(example, kernel(held, request))
        assert attend.launches == number


def test_a_triton_whose_compiled_kernels_take_other_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    example = case(torch.float32, 16)
    store = example.fill(RaggedStore())
    attend, _ = replaced(monkeypatch, num_parameters=7)
    answers = [kernel(store, example.request) for _ in range(3)]
    assert torch.equal(answers[0], answers[2])
    assert attend.launches == 3


@contextmanager
def counted_calls() -> Iterator[list[str]]:
    """Tensor methods that allocate or make views, as they are called."""
    seen = list[str]()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("new_empty", "new_zeros", "view", "expand", "contiguous", "as_strided", "transpose", "reshape"):
            original = getattr(Tensor, name)

            def noted(self: Tensor, *args: Any, name: str = name, original: Any = original, **kwargs: Any) -> Any:
                seen.append(name)
                return original(self, *args, **kwargs)

            patch.setattr(Tensor, name, noted)
        for name in ("empty", "zeros"):
            patch.setattr(torch, name, lambda *_: pytest.fail("an allocation"))
        yield seen


class Nothing:
    """A kernel that does nothing."""

    def __getitem__(self, grid: object) -> Any:
        return lambda *_, **__: None


@pytest.mark.parametrize(("masked", "expected"), [(False, []), (True, ["view", "view"])])
def test_a_step_allocates_once(monkeypatch: pytest.MonkeyPatch, masked: bool, expected: list[str]) -> None:
    example = case(torch.float32, 16, masked=masked, past_masked=masked)
    store = example.fill(RaggedStore())
    monkeypatch.setattr(kernels, "attend_tile", Nothing())
    kernel(store, example.request)
    with counted_calls() as seen:
        kernel(store, example.request)
    assert sorted(seen) == ["as_strided", "new_empty", *expected]


def test_a_step_calls_few_of_our_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the plan to the launch, with nothing left to compile: Python's part of a step must stay small."""
    monkeypatch.setattr(plan, "refusal", lambda *_: None)
    monkeypatch.setattr(plan.fallback, "on_cpu", True)
    monkeypatch.setattr(kernels, "attend_tile", Nothing())
    example, kept, seen = case(torch.float32, 16), plan.AttentionPlan(), list[str]()
    store = example.fill(RaggedStore())
    kept.attend(store, example.request)
    package = str(Path(lavakv.__file__).parent)

    def noted(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(package):
            seen.append(frame.f_code.co_name)

    sys.setprofile(noted)
    try:
        kept.attend(store, example.request)
    finally:
        sys.setprofile(None)
    assert len(seen) <= 12, seen


def test_the_device_is_switched_only_where_it_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "attend_tile", Nothing())
    switched = list[int]()
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device", lambda index: switched.append(index) or pytest.MonkeyPatch.context())
    example = case(torch.float32, 16)
    store = example.fill(RaggedStore())
    prepared = launch.launch_for(example.request.queries, store.tail.buffers[1])
    for index in (-1, 1, 0):
        monkeypatch.setattr(prepared, "_index", index)
        prepared(store, example.request)
    assert switched == [0]


def test_masks_of_many_columns_are_told_apart() -> None:
    """Strides that need 64 bits are another kernel's."""
    small, large = (
        torch.empty_strided((2, 1, 1, 8), (stride, 1, 1, 1), dtype=torch.bool, device="meta") for stride in (8, 2**31)
    )
    assert kernel_masks(small, small, None).kind != kernel_masks(small, large, None).kind
    assert kernel_masks(small, None, small).kind != kernel_masks(small, None, large).kind
