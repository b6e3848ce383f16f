"""The Triton kernels under Triton's CPU interpreter, against the dense truth."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.attention.interpreter import interpreter, repaired_interpreter  # first: it skips where Triton is missing

from lavakv.attention import AttentionRequest  # isort: skip
from lavakv.attention.triton import kernel as kernels
from lavakv.attention.triton import launch, sizes, variant
from lavakv.attention.triton.launch import Tail, attend_tiles
from lavakv.bench.ragged_case import skewed_counts
from lavakv.bench.settings import Setting
from lavakv.store.past import RaggedPast
from lavakv.store.ragged import RaggedStore
from tests.attention.cases import Case, cases
from tests.attention.kernel_cases import HEAD_DIMS, KERNEL_DTYPES, assert_as_good_as_pytorch, case
from tests.attention.test_stores import assert_exact, conditions


@pytest.fixture(autouse=True)
def _interpreter() -> Iterator[None]:
    with repaired_interpreter():
        yield


def kernel(store: RaggedStore, request: AttentionRequest) -> Tensor:
    assert store.past is not None
    assert store.tail is not None
    return attend_tiles(store.past, Tail(*store.tail.buffers, store.tail.length), request)


def answer(example: Case) -> Tensor:
    """In fresh memory full of NaN: spare room of the tail, partial results, output."""
    with conditions(with_operator=True):
        return kernel(example.fill(RaggedStore()), example.request)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@settings(max_examples=10)
@given(data=st.data())
def test_any_shape_is_exact(dtype: torch.dtype, data: st.DataObject) -> None:
    """Softcap, sinks, masks, groups, several queries, odd sizes; tiles of few entries, so that there are many.

    Merged in the same launch, and in another.
    """
    example, size = data.draw(cases(dtype)), data.draw(st.sampled_from([3, 8, 64]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "tile_size", lambda *_: size)
        patch.setattr(launch, "MAX_MERGE_BYTES", data.draw(st.sampled_from([0, launch.MAX_MERGE_BYTES])))
        assert_exact(example, answer(example))


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_as_good_as_pytorch(dtype: torch.dtype, head_dim: int) -> None:
    assert_as_good_as_pytorch(example := case(dtype, head_dim), answer(example))


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize(
    "settings",
    [
        {"softcap": 2.0},
        {"softcap": 50.0},
        {"sinks": True},
        {"masked": True},
        {"num_queries": 5},
        {"group": 1},
        {"past_masked": True},
        {"past_masked": True, "num_queries": 5},
    ],
    ids=str,
)
def test_settings_are_as_good_as_pytorch(dtype: torch.dtype, settings: dict[str, object]) -> None:
    assert_as_good_as_pytorch(example := case(dtype, 64, **settings), answer(example))  # type: ignore[arg-type]


@pytest.mark.parametrize("counts", [[[0, 0], [0, 0]], [[1, 0]], [[64, 65]], [[0, 200], [2, 0], [1, 1]]], ids=str)
def test_hostile_lengths(counts: list[list[int]]) -> None:
    example = case(torch.float32, 16, counts)
    assert_as_good_as_pytorch(example, answer(example))


@pytest.mark.parametrize("max_merge_bytes", [0, 2**30])
def test_a_segment_of_many_tiles(monkeypatch: pytest.MonkeyPatch, max_merge_bytes: int) -> None:
    """More tiles than the merger loads at once."""
    monkeypatch.setattr(launch, "tile_size", lambda *_: 2)
    monkeypatch.setattr(launch, "MAX_MERGE_BYTES", max_merge_bytes)
    monkeypatch.setattr(variant, "merged_tiles", lambda _: 16)
    monkeypatch.setattr(launch, "_launches", {})
    example = case(torch.float32, 16, [[50, 3]], sinks=True)
    assert_as_good_as_pytorch(example, answer(example))


@pytest.mark.parametrize(("max_merge_bytes", "num_launches"), [(0, 2), (2**30, 1)])
def test_the_last_tile_merges_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, max_merge_bytes: int, num_launches: int
) -> None:
    """A replayed graph finds the counters as the first launch did."""
    monkeypatch.setattr(launch, "tile_size", lambda *_: 8)
    monkeypatch.setattr(launch, "MAX_MERGE_BYTES", max_merge_bytes)
    example = case(torch.float32, 16, [[0, 50], [1, 9]])
    store = example.fill(RaggedStore())
    counted = [Counted(kernels.attend_tile), Counted(kernels.merge_tiles)]
    monkeypatch.setattr(kernels, "attend_tile", counted[0])
    monkeypatch.setattr(kernels, "merge_tiles", counted[1])
    answers = [kernel(store, example.request) for _ in range(2)]
    assert torch.equal(*answers)
    assert_as_good_as_pytorch(example, answers[0])
    assert sum(len(each.grids) for each in counted) == 2 * num_launches
    assert store.past is not None
    (schedule,) = store.past.planned_tiles.values()
    segments = schedule.work[3 * schedule.num_tiles :].view(-1, 2)
    assert segments[:, 1].tolist() == [0] * 5
    assert segments[:, 0].tolist() == [0, 0, 7, 8, 10]


def test_the_order_in_which_tiles_finish_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs programs in order, a GPU in any: whichever is last merges, and to the same bits."""
    monkeypatch.setattr(launch, "tile_size", lambda *_: 8)
    example = case(torch.float32, 16, [[0, 50], [1, 9]])
    store = example.fill(RaggedStore())
    expected = kernel(store, example.request)
    seen = []

    def reversed_programs(*sizes: int) -> list[int]:
        seen.append(sizes)
        return list(range(*sizes))[:: -1 if len(sizes) == 1 else 1]  # the grid's loops have one argument

    monkeypatch.setattr(interpreter, "range", reversed_programs, raising=False)
    assert torch.equal(kernel(store, example.request), expected)
    assert seen[0] == (14,)


def test_queries_of_any_strides() -> None:
    example = case(torch.float32, 16, num_queries=2)
    store = example.fill(RaggedStore())
    expected = kernel(store, example.request)
    queries = example.request.queries
    for dims in ((3, 2, 1, 0), (0, 3, 1, 2), (2, 0, 1, 3)):
        back = [dims.index(i) for i in range(4)]
        strided = queries.permute(dims).contiguous().permute(back)
        assert torch.equal(kernel(store, example.request._replace(queries=strided)), expected)


def test_one_mask_for_all_sequences() -> None:
    example = case(torch.float32, 16, num_queries=2)
    store, mask = example.fill(RaggedStore()), example.request.tail_mask
    assert mask is not None
    shared = example.request._replace(tail_mask=mask[:1])
    each = example.request._replace(tail_mask=mask[:1].expand(2, -1, -1, -1).contiguous())
    assert torch.equal(kernel(store, shared), kernel(store, each))


@pytest.mark.parametrize("num_queries", [1, 3])
def test_one_row_of_a_past_mask_for_all_queries(num_queries: int) -> None:
    """Broadcast over queries, as a padding mask comes; and as a view with other strides."""
    example = case(torch.float32, 16, num_queries=num_queries, past_masked=True)
    store, mask = example.fill(RaggedStore()), example.request.past_mask
    assert mask is not None
    one = mask[:, :, :1]
    shared = example.request._replace(past_mask=one)
    each = example.request._replace(past_mask=one.expand(-1, -1, num_queries, -1).contiguous())
    turned = example.request._replace(past_mask=one.transpose(0, 3).contiguous().transpose(0, 3))
    assert torch.equal(kernel(store, shared), kernel(store, each))
    assert torch.equal(kernel(store, shared), kernel(store, turned))


def test_nothing_beyond_the_segments_is_read() -> None:
    """Entries, tail and mask lie in the middle of larger memory full of NaN."""
    example = case(torch.float32, 20, masked=True)
    store = example.fill(RaggedStore())
    expected, past = kernel(store, example.request), store.past
    assert past is not None

    def amid_nan(tensor: Tensor) -> Tensor:
        larger = tensor.new_full((tensor.shape[0] + 80, *tensor.shape[1:]), torch.nan)
        larger[40:-40] = tensor
        return larger[40:-40]

    store.past = RaggedPast(amid_nan(past.keys), amid_nan(past.values), past.columns, past.lengths())
    assert torch.equal(kernel(store, example.request), expected)


class Counted:
    """A kernel that notes the grids it is launched with."""

    def __init__(self, kernel: Any) -> None:
        self.grids: list[tuple[int, ...]] = []
        self._kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.grids.append(grid)
        return self._kernel[grid]


def test_spare_room_of_the_tail_is_neither_cut_into_tiles_nor_read(monkeypatch: pytest.MonkeyPatch) -> None:
    example = case(torch.float32, 20, num_queries=2)
    store = example.fill(RaggedStore())
    expected = kernel(store, example.request)
    assert store.past is not None
    assert store.tail is not None
    store.tail.reserve(1000)
    for buffer in store.tail.buffers:
        buffer[:, :, store.tail.length :] = torch.nan
    counted = Counted(kernels.attend_tile)
    monkeypatch.setattr(kernels, "attend_tile", counted)
    assert torch.equal(kernel(store, example.request), expected)
    num_tiles = sum(-(-length // sizes.MIN_TILE) for length in store.past.lengths())
    assert counted.grids == [(num_tiles + 2 * store.num_heads, 1, 1)]


def test_a_copied_store_answers_alike() -> None:
    example = case(torch.float32, 16)
    store = example.fill(RaggedStore())
    expected = kernel(store, example.request)
    assert torch.equal(kernel(copy.deepcopy(store), example.request), expected)


def test_a_row_that_sees_nothing_is_zero() -> None:
    """As in the plain path: no NaN from minus infinity."""
    example = case(torch.float32, 16, [[0, 0]], num_queries=2)
    mask = example.request.tail_mask
    assert mask is not None
    mask[:, :, 0] = False
    got = kernel(example.fill(RaggedStore()), example.request)
    assert torch.equal(got[:, :, 0], torch.zeros_like(got[:, :, 0]))
    assert bool(got[:, :, 1].isfinite().all())


def test_logits_far_apart_neither_overflow_nor_vanish() -> None:
    example = case(torch.float32, 16)
    huge = example.request.queries * 1e4
    example.request = example.request._replace(queries=huge)
    got, exact = kernel(example.fill(RaggedStore()), example.request), example.exact()
    plain = float((example.pytorch()[0].double() - exact).abs().max())
    assert float((got.double() - exact).abs().max()) <= 2 * plain + 4 * torch.finfo(torch.float32).eps


def past_size(batch: int, held: int) -> sizes.PastSize:
    """Heads as unequal as the benchmark's, which the settings were measured with."""
    counts = skewed_counts(Setting(131072, batch, held), 8, 32, 0)
    return sizes.PastSize(sum(map(sum, counts)), 8 * batch, max(map(max, counts)))


@pytest.mark.parametrize(
    ("batch", "held", "size"),
    [(1, 1024, 128), (1, 16384, 1024), (8, 1024, 128), (8, 4096, 512), (8, 16384, 1024), (64, 1024, 512)],
)
def test_tiles_are_those_that_were_fastest(batch: int, held: int, size: int) -> None:
    assert sizes.tile_size(past_size(batch, held), 132) == size


@given(st.integers(1, 4096), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 200), st.integers(1, 600))
def test_tiles_of_any_past_are_bounded(
    num_segments: int, longest: int, others: int, num_processors: int, num_row_blocks: int
) -> None:
    past = sizes.PastSize(longest + min(others, longest * (num_segments - 1)), num_segments, longest)
    size = sizes.tile_size(past, num_processors, num_row_blocks)
    assert size & (size - 1) == 0
    assert size >= sizes.MIN_TILE
    if num_row_blocks == 1:
        assert size <= max(sizes.MAX_TILE, longest)
        assert longest / size <= 128
    else:
        assert size <= sizes.MAX_CHUNK_TILE
