"""The attention kernels against size, with and without what was done for speed, and what a step costs the host.

Three tables, each of them printed as it is measured, and one JSON line last (with `"partial": true` before that):

- a decode step of one layer in a CUDA graph, by batch and entries a head: microseconds and fraction of the measured
  bandwidth, with today's settings and one launch where that suffices ("now"), and with either or both as they were
  before 2026-11-27 ("two launches", "settings before", "before");
- chunks of tokens, kernels against the plain path, which is what chunks took before;
- the host's time for a step's call, beside that of scaled dot-product attention.

Llama-3.1-8B's shape in bfloat16 with heads of unequal length, under 90 s on one GPU. Without one only the host's time
is measured, in process time, with launches replaced by nothing.

    PYTHONPATH=src python benchmarks/decode_kernels.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch.nn.functional import scaled_dot_product_attention

from lavakv.attention import AttentionPlan, AttentionRequest, AttentionSettings
from lavakv.attention import plan as attention_plan
from lavakv.attention.ragged import attend_ragged
from lavakv.attention.triton import kernel, launch, sizes, variant
from lavakv.bench.clock import captured, seconds_of
from lavakv.bench.machine import read_bandwidth
from lavakv.bench.ragged_case import LayerShape, RaggedCase
from lavakv.bench.settings import Setting

PROMPT, WINDOW, HEADS, HEAD_DIM, QUERY_HEADS = 131072, 32, 8, 128, 32
SIZES = ((1, 1024), (1, 16384), (8, 1024), (8, 4096), (8, 16384), (64, 1024))  # sequences, entries a head
CHUNKS = ((1, 1024, 40), (1, 1024, 256), (1, 1024, 1024), (8, 1024, 256))  # and new tokens
COLD_BYTES, MIN_CALLS, ROUNDS, HOST_CALLS = 2**28, 32, 5, 320


class Choice(NamedTuple):
    """What a measurement replaces: tiles and stages as they were before, and the merge in a launch of its own."""

    settings_before: bool
    two_launches: bool


CHOICES = {
    "now": Choice(False, False),
    "two launches": Choice(False, True),
    "settings before": Choice(True, False),
    "before": Choice(True, True),
}


def tile_size_before(past: sizes.PastSize, num_processors: int, *_: int) -> int:
    """Four tiles a processor of 64 to 1,024 entries."""
    return min(max(sizes.power_of_two(-(-past.num_entries // (4 * num_processors))), 64), 1024)


def launch_shape_before(head_dim: int, value_dim: int, itemsize: int, num_rows: int = 16) -> sizes.LaunchShape:
    """Two stages."""
    return sizes.launch_shape(head_dim, value_dim, itemsize, num_rows)._replace(num_stages=2)


@contextmanager
def chosen(choice: Choice, cases: list[RaggedCase]) -> Iterator[None]:
    """Plan and launch by a choice; what was planned by another is forgotten."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(launch, "_launches", {}))
        if choice.settings_before:
            stack.enter_context(patch.object(launch, "tile_size", tile_size_before))
            stack.enter_context(patch.object(variant, "launch_shape", launch_shape_before))
        if choice.two_launches:
            stack.enter_context(patch.object(launch, "MAX_MERGE_BYTES", 0))
        for case in cases:
            assert case.store.past is not None
            case.store.past.planned_tiles.clear()
        yield


def attend(case: RaggedCase) -> torch.Tensor:
    """A layer's attention through the kernels."""
    assert case.store.tail is not None
    return launch.launch_for(case.request.queries, case.store.tail.buffers[1])(case.store, case.request)


def seconds_in_graph(cases: list[RaggedCase]) -> float:
    """Seconds a call, median of a few replays of many."""
    repeats = max(1, MIN_CALLS // len(cases))

    def work() -> None:
        for _ in range(repeats):
            for case in cases:
                attend(case)

    replay, device = captured(work), cases[0].request.queries.device
    return statistics.median(seconds_of(replay, device) for _ in range(ROUNDS)) / (repeats * len(cases))


def made_up(batch: int, held: int) -> tuple[list[RaggedCase], int]:
    """Layers that together exceed any cache, and the bytes that a step of one reads."""
    shape = LayerShape(QUERY_HEADS, HEADS, HEAD_DIM, torch.bfloat16, torch.device("cuda"))
    nbytes = batch * HEADS * held * 2 * HEAD_DIM * 2
    copies = min(max(1, COLD_BYTES // nbytes), 8)
    return [RaggedCase.made_up(shape, Setting(PROMPT, batch, held), WINDOW, seed) for seed in range(copies)], nbytes


def decode(batch: int, held: int, bandwidth: float) -> dict[str, Any]:
    """A decode step with each choice."""
    cases, nbytes = made_up(batch, held)
    row: dict[str, Any] = {"batch": batch, "entries": held, "MB": nbytes / 1e6}
    for name, choice in CHOICES.items():
        with chosen(choice, cases):
            seconds = seconds_in_graph(cases)
            assert cases[0].store.past is not None
            (planned,) = cases[0].store.past.planned_tiles.values()
        row[name] = {"us": seconds * 1e6, "bandwidth_fraction": nbytes / seconds / bandwidth, "tile": planned.size}
    texts = [
        f"{name} {row[name]['us']:.1f} us ({row[name]['bandwidth_fraction']:.2f}, tile {row[name]['tile']})"
        for name in CHOICES
    ]
    print(f"batch {batch}, {held} entries, {nbytes / 1e6:.0f} MB: {'; '.join(texts)}", flush=True)
    return row


def chunk(batch: int, held: int, tokens: int) -> dict[str, Any]:
    """A chunk of tokens, each seeing those before it, through the kernels and on the plain path."""
    shape = LayerShape(QUERY_HEADS, HEADS, HEAD_DIM, torch.bfloat16, torch.device("cuda"))
    store, _ = RaggedCase.made_up(shape, Setting(PROMPT, batch, held), WINDOW, 0)
    store.append(*(shape.normal(batch, HEADS, tokens - 1, HEAD_DIM, seed=seed) for seed in (1, 2)))
    tail = store.tail_length
    mask = torch.ones(tokens, tail, dtype=torch.bool, device="cuda").tril(tail - tokens).expand(batch, 1, -1, -1)
    queries = shape.normal(batch, QUERY_HEADS, tokens, HEAD_DIM, seed=3)
    request = AttentionRequest(queries, AttentionSettings(HEAD_DIM**-0.5), mask.contiguous())
    case = RaggedCase(store, request)
    difference = float((attend(case).float() - attend_ragged(store, request).float()).abs().max())
    row: dict[str, Any] = {"batch": batch, "entries": held, "tokens": tokens, "difference": difference}
    for name, work in (("kernels", partial(attend, case)), ("plain", partial(attend_ragged, store, request))):
        work()
        row[name] = statistics.median(seconds_of(work, queries.device) for _ in range(ROUNDS)) * 1e6
    print(
        f"chunk of {tokens}, batch {batch}, {held} entries: kernels {row['kernels']:.0f} us, "
        f"plain {row['plain']:.0f} us, they differ by {difference:.1e}",
        flush=True,
    )
    return row


class _Nothing:
    """A kernel, and what it is compiled to, that does nothing."""

    def __getitem__(self, grid: object) -> Callable[..., Any]:
        return lambda *_, **__: self


@contextmanager
def without_gpu() -> Iterator[None]:
    """CPU tensors go as far as the launch."""
    with ExitStack() as stack:
        for name in ("attend_tile", "merge_tiles"):
            stack.enter_context(patch.object(kernel, name, _Nothing()))
        stack.enter_context(patch.object(attention_plan, "refusal", lambda *_: None))
        stack.enter_context(patch.object(attention_plan.fallback, "on_cpu", True))
        yield


def host_seconds(call: Callable[[], object], device: str) -> float:
    """The host's seconds for a call, nothing waited for; the least of several rounds."""
    clock, found = (time.perf_counter if device == "cuda" else time.process_time), []
    for _ in range(2 * ROUNDS):
        if device == "cuda":
            torch.cuda.synchronize()
        start = clock()
        for _ in range(HOST_CALLS):
            call()
        found.append((clock() - start) / HOST_CALLS)
    return min(found)


def host(device: str) -> dict[str, float]:
    """The host's time for a step of one layer, without masks and with them."""
    shape = LayerShape(QUERY_HEADS, HEADS, HEAD_DIM, torch.bfloat16, torch.device(device))
    store, request = RaggedCase.made_up(shape, Setting(2048, 1, 256), WINDOW, 0)
    masks = (torch.ones(1, 1, 1, length, dtype=torch.bool, device=device) for length in (store.tail_length, 2048))
    masked, plan, found = AttentionRequest(*request[:2], *masks), AttentionPlan(), dict[str, float]()
    with without_gpu() if device == "cpu" else ExitStack():
        for name, asked in (("a step", request), ("a step with masks", masked)):
            found[name] = host_seconds(partial(plan.attend, store, asked), device) * 1e6
    if device == "cuda":
        keys = shape.normal(1, HEADS, 256, HEAD_DIM, seed=1)
        found["SDPA"] = host_seconds(
            lambda: scaled_dot_product_attention(request.queries, keys, keys, enable_gqa=True), device
        ) * 1e6  # fmt: skip
    found["one allocation"] = host_seconds(lambda: request.queries.new_empty(4096), device) * 1e6
    print("host, us: " + ", ".join(f"{name} {us:.1f}" for name, us in found.items()), flush=True)
    return found


@torch.inference_mode()
def measure(device: str) -> dict[str, Any]:
    """All that can be measured here."""
    start, record = time.perf_counter(), dict[str, Any]()
    record["host_us"] = host(device)
    if device == "cuda":
        bandwidth = read_bandwidth(torch.device("cuda"))
        record |= {"gpu": torch.cuda.get_device_name(), "bandwidth": bandwidth, "decode": [], "chunks": []}
        works: list[tuple[str, Callable[[], dict[str, Any]]]] = [
            *(("decode", partial(decode, *size, bandwidth)) for size in SIZES),
            *(("chunks", partial(chunk, *size)) for size in CHUNKS),
        ]
        for name, work in works:
            record[name].append(work())
            torch.cuda.empty_cache()
            print(json.dumps({**record, "partial": True}), flush=True)
    return {**record, "seconds": time.perf_counter() - start}


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    device = parser.parse_args().device
    if device == "cpu":
        print("no GPU: the host's time alone is measured", file=sys.stderr)
    print(json.dumps(measure(device)), flush=True)


if __name__ == "__main__":
    main()
