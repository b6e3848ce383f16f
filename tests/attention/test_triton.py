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

from tests.attention.interpreter import repaired_interpreter  # first: it skips where Triton is missing

from lavakv.attention import AttentionRequest  # isort: skip
from lavakv.attention.triton import launch, sizes
from lavakv.attention.triton.launch import Tail, attend_tiles
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
    """Softcap, sinks, masks, groups, several queries, odd sizes; tiles of few entries, so that there are many."""
    example, size = data.draw(cases(dtype)), data.draw(st.sampled_from([3, 8, 64]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "tile_size", lambda *_: size)
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


def test_a_segment_of_many_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """More tiles than the merger loads at once."""
    monkeypatch.setattr(launch, "tile_size", lambda *_: 2)
    example = case(torch.float32, 16, [[50, 3]], sinks=True)
    assert_as_good_as_pytorch(example, answer(example))


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
    counted = Counted(launch.kernel.attend_tile)
    monkeypatch.setattr(launch.kernel, "attend_tile", counted)
    assert torch.equal(kernel(store, example.request), expected)
    num_tiles = store.past.tiles(sizes.tile_size(store.past.num_entries, 1)).num_tiles
    assert counted.grids == [(num_tiles + 2 * store.num_heads,)]


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


def test_tiles_fill_the_chip_and_stay_bounded() -> None:
    for entries in (0, 1, 5000, 10**6, 10**8):
        size = sizes.tile_size(entries, 132)
        assert sizes.MIN_TILE <= size <= sizes.MAX_TILE
        assert size & (size - 1) == 0
    assert 8 * 1024 / sizes.tile_size(8 * 1024, 132) >= 128  # one sequence, 8 KV heads of 1,024 entries
