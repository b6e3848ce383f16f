"""Chunks of tokens through the Triton kernels, under Triton's CPU interpreter, against the dense truth."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.attention.interpreter import repaired_interpreter  # first: it skips where Triton is missing

from lavakv.attention import AttentionRequest, AttentionSettings  # isort: skip
from lavakv.attention import plan
from lavakv.attention.ragged import attend_ragged
from lavakv.attention.triton import kernel as kernels
from lavakv.attention.triton import launch
from lavakv.attention.triton.masks import tail_reach
from lavakv.attention.triton.sizes import max_rows
from lavakv.kernels import Fallback, device_unsupported_reason
from lavakv.store.quantised import QuantisedStore
from lavakv.store.ragged import RaggedStore
from tests.attention.cases import Case, hidden_past, tail_mask
from tests.attention.kernel_cases import HEAD_DIMS, KERNEL_DTYPES, assert_as_good_as_pytorch, case
from tests.attention.test_stores import assert_exact, conditions
from tests.attention.test_triton import Counted, answer, kernel


@pytest.fixture(autouse=True)
def _interpreter() -> Iterator[None]:
    with repaired_interpreter():
        yield


@st.composite
def chunks(draw: st.DrawFn, dtype: torch.dtype) -> Case:
    """More query rows than one program takes, often not divisible by its rows, a token or a head at a time."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    batch, heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 3, 8]))
    most = max_rows(dtype.itemsize)
    num_queries = -(-(most + draw(st.sampled_from([1, 2, most // 2]))) // group)
    head_dim, window = draw(st.sampled_from([64, 20, 5])), draw(st.integers(1, 4))
    value_dim = draw(st.sampled_from([head_dim, 3, 24]))
    evictable = draw(st.sampled_from([0, 1, 12, 150]))
    counts = [
        [draw(st.sampled_from([0, 1, evictable])) if evictable else 0 for _ in range(heads)] for _ in range(batch)
    ]
    ranked = [torch.stack([torch.randperm(evictable, generator=generator) for _ in range(heads)]) for _ in range(batch)]
    columns = evictable + window + 1 + num_queries

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).transpose(1, 2)

    sinks = torch.randn(heads * group, generator=generator).to(dtype) if draw(st.booleans()) else None
    attention = AttentionSettings(head_dim**-0.5, draw(st.sampled_from([None, 2.0])), sinks)
    past_mask = None
    if draw(st.booleans()):
        past_mask = hidden_past(generator, batch, draw(st.sampled_from([1, num_queries])), evictable)
    mask = tail_mask(generator, batch, num_queries, window + 1 + num_queries)
    request = AttentionRequest(noise(batch, num_queries, heads * group, head_dim), attention, mask, past_mask)
    keys, values = noise(batch, columns, heads, head_dim), noise(batch, columns, heads, value_dim)
    return Case(keys, values, ranked, counts, window, request)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@settings(max_examples=6)
@given(data=st.data())
def test_any_chunk_is_exact(dtype: torch.dtype, data: st.DataObject) -> None:
    """Empty heads, one entry, groups of one to eight, padding, softcap, sinks, masks; small tiles and large ones."""
    example = data.draw(chunks(dtype))
    with pytest.MonkeyPatch.context() as patch:
        if data.draw(st.booleans()):
            patch.setattr(launch, "tile_size", lambda *_: 32)
        assert_exact(example, answer(example))


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_as_good_as_pytorch(dtype: torch.dtype, head_dim: int) -> None:
    num_queries = max_rows(dtype.itemsize) // 2
    assert_as_good_as_pytorch(example := case(dtype, head_dim, num_queries=num_queries), answer(example))


def test_all_rows_see_the_past_where_the_mask_is_missing() -> None:
    example = case(torch.float32, 16, num_queries=20, past_masked=True)
    everything = torch.ones_like(example.request.tail_mask)
    with_mask = kernel(example.fill(RaggedStore()), example.request._replace(tail_mask=everything))
    without = kernel(example.fill(RaggedStore()), example.request._replace(tail_mask=None))
    assert torch.equal(with_mask, without)


def test_queries_may_look_ahead() -> None:
    """Image tokens see one another: a mask is no triangle, and nothing it shows is skipped."""
    example = case(torch.float32, 16, num_queries=40, group=1)
    mask = example.request.tail_mask
    assert mask is not None
    mask[0, 0, 3:20, -37:-20] = True
    mask[1, 0, 0, -1] = True
    assert_as_good_as_pytorch(example, answer(example))


@pytest.mark.parametrize("batch", [1, 3])
def test_the_reach_of_a_query_is_behind_the_last_column_it_sees(batch: int) -> None:
    mask = torch.rand(batch, 1, 7, 9) < 0.2
    mask[:, :, 2] = False
    reach = tail_reach(mask, 3)
    assert reach.shape == (3, 7)
    for sequence in range(3):
        for query, seen in enumerate(mask[min(sequence, batch - 1), 0]):
            last = max((int(column) + 1 for column in seen.nonzero()), default=9)  # sees nothing: all of it is masked
            assert reach[sequence, query] == last


def test_a_chunk_whose_parts_are_too_large_is_attended_to_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    example = case(torch.float32, 16, num_queries=30, past_masked=True)
    store = example.fill(RaggedStore())
    expected = kernel(store, example.request)
    counted = Counted(kernels.attend_tile)
    monkeypatch.setattr(kernels, "attend_tile", counted)
    monkeypatch.setattr(launch, "_launches", {})
    monkeypatch.setattr(launch, "MAX_PART_BYTES", 20_000)
    got = kernel(store, example.request)
    torch.testing.assert_close(got, expected)
    assert got.transpose(1, 2).is_contiguous()
    assert len(counted.grids) > 1
    assert_as_good_as_pytorch(example, got)


def test_lengths_of_chunks_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_launches", {})
    values = torch.zeros(1, 1, 4, 16)
    for count in range(1, 1000):
        launch.launch_for(torch.zeros(1, 1, count, 16), values)
    assert len(launch._launches) <= 256


@pytest.mark.parametrize("store", [RaggedStore(), QuantisedStore(8)], ids=["ragged", "quantised"])
def test_the_plan_takes_the_kernels_for_a_chunk(monkeypatch: pytest.MonkeyPatch, store: RaggedStore) -> None:
    """Without a warning, and with the answer of the plain path within its own error."""
    monkeypatch.setattr(plan, "fallback", Fallback("decoding"))
    plan.fallback.on_cpu = True
    device_unsupported_reason.cache_clear()
    counted = Counted(kernels.attend_tile)
    monkeypatch.setattr(kernels, "attend_tile", counted)
    example = case(torch.float32, 16, num_queries=20)
    example.fill(store)
    with conditions(with_operator=True):
        got = plan.AttentionPlan().attend(store, example.request)
    assert [grid[1] for grid in counted.grids] == [4]  # 60 rows, 16 at a time
    plan.fallback.on_cpu = False
    plain = plan.AttentionPlan().attend(copy.deepcopy(store), example.request)
    torch.testing.assert_close(got, plain)
    if type(store) is RaggedStore:
        assert torch.equal(plain, attend_ragged(store, example.request))
    device_unsupported_reason.cache_clear()
