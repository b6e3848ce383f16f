"""The Triton kernels on a GPU: the same cases as under the interpreter, CUDA graphs, and no wait for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import lavakv
from lavakv.attention import AttentionRequest, AttentionSettings, attend, plan
from lavakv.attention.ragged import attend_ragged
from lavakv.attention.static import append_and_attend
from lavakv.kernels import SWITCH
from lavakv.store.growing import GrowingKeyValues
from lavakv.store.past import RaggedPast
from lavakv.store.ragged import RaggedStore
from tests.attention.cases import Case
from tests.attention.kernel_cases import HEAD_DIMS, KERNEL_DTYPES, assert_as_good_as_pytorch, case, in_float64, typical
from tests.hf import zoo
from tests.hf.helpers import feed, lava_cache

triton = pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(triton.knobs.runtime.interpret, reason="TRITON_INTERPRET is set: the kernels run interpreted"),
    pytest.mark.filterwarnings("error:lavakv. decoding takes the plain path"),
]
launch = pytest.importorskip("lavakv.attention.triton.launch")


def filled(example: Case) -> RaggedStore:
    """The case's store on the GPU."""
    store = example.to("cuda").fill(RaggedStore())
    assert isinstance(store, RaggedStore)
    return store


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


SETTINGS: list[dict[str, object]] = [
    {},
    {"softcap": 2.0},
    {"softcap": 50.0},
    {"sinks": True},
    {"masked": True},
    {"num_queries": 5},
    {"past_masked": True},
    {"past_masked": True, "masked": True, "num_queries": 5},
    {"group": 1},
    {"counts": [[0, 0], [0, 0]]},
    {"counts": [[0, 5000], [1, 64]]},
    {"counts": [[257] * 8]},
    {"num_queries": 40},
    {"num_queries": 150, "softcap": 2.0, "sinks": True},
    {"num_queries": 97, "past_masked": True, "counts": [[0, 5000], [1, 64]]},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("head_dim", [*HEAD_DIMS, 20])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_as_good_as_pytorch(dtype: torch.dtype, head_dim: int, settings: dict[str, object]) -> None:
    example = case(dtype, head_dim, **settings).to("cuda")  # type: ignore[arg-type]
    store = filled(example)
    assert isinstance(plan.choose(store, example.request), plan.KernelPath)
    assert_as_good_as_pytorch(example, attend(store, example.request))


@pytest.mark.parametrize("max_merge_bytes", [0, 2**30])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_the_last_tile_merges_whichever_it_is(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, max_merge_bytes: int
) -> None:
    """Hundreds of tiles finish in any order: the same bits each time, the counters zero after each launch."""
    monkeypatch.setattr(launch, "MAX_MERGE_BYTES", max_merge_bytes)
    monkeypatch.setattr(launch, "tile_size", lambda *_: 64)
    example = case(dtype, 128, [[20_000, 3, 700, 0], [64, 9000, 1, 5000]], sinks=True).to("cuda")
    store = filled(example)
    first = attend(store, example.request)
    assert_as_good_as_pytorch(example, first)
    assert store.past is not None
    (schedule,) = store.past.planned_tiles.values()
    for _ in range(300):
        again = attend(store, example.request)
        assert torch.equal(again, first)
    assert not bool(schedule.work[3 * schedule.num_tiles :].view(-1, 2)[:, 1].any())


def test_a_chunk_whose_parts_are_too_large_is_attended_to_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    example = case(torch.bfloat16, 128, num_queries=200).to("cuda")
    monkeypatch.setattr(launch, "MAX_PART_BYTES", 2**20)
    assert_as_good_as_pytorch(example, attend(filled(example), example.request))


def test_compiled_kernels_are_launched_by_their_handles(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second call on, none of Triton's look at each argument; other strides and lengths get what is theirs."""
    monkeypatch.setattr(launch, "_launches", {})
    example = case(torch.bfloat16, 64, masked=True).to("cuda")
    store = filled(example)
    attend(store, example.request)
    (found,) = launch._launches.values()
    assert all(each.attend._compiled is not None for each in found.variants._found.values())
    queries = example.request.queries
    shifted = queries.new_empty(queries.numel() + 1)[1:].view(queries.shape).copy_(queries)  # not divisible by 16 bytes
    for same in (queries, shifted, queries.transpose(1, 3).contiguous().transpose(1, 3)):
        for _ in range(3):
            assert_as_good_as_pytorch(example, attend(store, example.request._replace(queries=same)))
    assert len(found.variants._found) == 3


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.mem_get_info()[0] < 24 * 2**30, reason="needs 24 GiB of free GPU memory"
)
def test_more_numbers_than_32_bits_can_count() -> None:
    entries, dim = 2**31 // 128 + 1000, 128
    torch.manual_seed(0)
    keys = torch.randn(entries, dim, device="cuda", dtype=torch.bfloat16)
    values = torch.randn(entries, dim, device="cuda", dtype=torch.bfloat16)
    columns = torch.zeros(entries, device="cuda", dtype=torch.int32)
    queries = torch.randn(1, 8, 1, dim, device="cuda", dtype=torch.bfloat16)
    queries[0, 4:, 0] = 4 * keys[-1]  # the last entries count
    store, one = RaggedStore(), torch.randn(1, 2, 1, dim, device="cuda", dtype=torch.bfloat16)
    store.hold(one, one)
    store.past = RaggedPast(keys, values, columns, [entries - 900, 900])
    store.tail = GrowingKeyValues(one.clone(), one.clone())
    request = AttentionRequest(queries, AttentionSettings(dim**-0.5))
    assert isinstance(plan.choose(store, request), plan.KernelPath)
    got, plain = attend(store, request), attend_ragged(store, request)
    logits = torch.cat([keys[-900:], one[0, 1]]).double() @ queries[0, 4:, 0].double().T * dim**-0.5
    exact = logits.softmax(0).T @ torch.cat([values[-900:], one[0, 1]]).double()
    assert typical(got[0, 4:, 0], exact) <= 2 * typical(plain[0, 4:, 0], exact)
    assert bool(got.isfinite().all())


def decoding_graph(step: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """Warm up on a side stream and capture, as PyTorch asks for it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = step()
    return graph, output


@pytest.mark.parametrize("max_merge_bytes", [0, 2**30])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_captured_step_replays(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, masked: bool, max_merge_bytes: int
) -> None:
    monkeypatch.setattr(launch, "MAX_MERGE_BYTES", max_merge_bytes)
    steps, example = 100, case(dtype, 64, [[0, 700], [1, 90]]).to("cuda")
    store, twin = filled(example), filled(example)
    assert store.tail is not None
    assert twin.tail is not None
    store.tail.reserve(steps)
    request = example.request
    capacity = store.tail.buffers[0].shape[2]
    mask = torch.rand(2, 1, 1, capacity, device="cuda") < 0.7
    mask[..., twin.tail.length :] = True
    request = request._replace(tail_mask=mask if masked else None)
    keys, values = (
        torch.zeros(2, 2, 1, 64, device="cuda", dtype=dtype),
        torch.zeros(2, 2, 1, 64, device="cuda", dtype=dtype),
    )
    length = torch.tensor([store.tail.length], device="cuda")
    graph, output = decoding_graph(lambda: append_and_attend(store, keys, values, request, length))
    for _ in range(steps):
        for static in (keys, values, request.queries):
            static.copy_(torch.randn(static.shape, device="cuda"))
        with no_waiting():
            graph.replay()
        twin.append(keys, values)
        visible = mask[..., : twin.tail.length] if masked else None
        plain = attend_ragged(twin, request._replace(tail_mask=visible))
        exact = attend_ragged(in_float64(twin), AttentionRequest(request.queries.double(), request.settings, visible))
        assert typical(output, exact) <= 2 * typical(plain, exact)
        length += 1
    store.tail.advance(steps)
    assert torch.equal(store.tail.keys, twin.tail.keys)


@pytest.mark.parametrize("padding", [0, 30, 39])
@torch.inference_mode()
def test_a_decode_step_waits_for_nothing(padding: int) -> None:
    """The whole forward, with a mask. The first steps compile kernels and plan the tiles."""
    model = lavakv.enable(zoo.tiny("llama", torch.bfloat16, attention="sdpa").cuda())
    ids, mask = zoo.prompt(40, batch=2).cuda(), torch.ones(2, 60, dtype=torch.long, device="cuda")
    mask[0, :padding] = 0
    cache = lava_cache(model, max_new_tokens=20)
    model(ids, attention_mask=mask[:, :40], past_key_values=cache)
    for seen in range(40, 44):
        model(ids[:, :1], attention_mask=mask[:, : seen + 1], past_key_values=cache)
    with no_waiting():
        for seen in range(44, 50):
            model(ids[:, :1], attention_mask=mask[:, : seen + 1], past_key_values=cache)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt_oss"])
def test_logits_equal_the_plain_path(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lavakv.enable(zoo.tiny(kind, attention="eager").cuda())
    chunks = zoo.prompt(60).cuda().split([40, 1, 1, 3, 15], dim=1)
    with_kernels = feed(model, lava_cache(model, policy="streaming-llm"), chunks)
    monkeypatch.setenv(SWITCH, "0")
    plain = feed(model, lava_cache(model, policy="streaming-llm"), chunks)
    exact = feed(model.double(), lava_cache(model, policy="streaming-llm"), chunks)
    assert typical(with_kernels, exact) <= 2 * typical(plain, exact)
