"""What attention over pages of one KV head costs on a GPU, beside pages of all heads: what a GPU backend depends on.

    python benchmarks/page_cost.py [--requests 1,8,32] [--tokens 2048,16384]

Inside vLLM an evicted request has pages of one head, and every head of every request is a sequence of its own with its
own page table (docs/vllm.md). The kernel that the backend for GPUs uses (`lavakv.attention.pages`) serves both layouts
here, with torch and Triton alone, so that nothing but the layout differs:

- `all heads`: pages of all KV heads, one table a request, as vLLM keeps them;
- `one head`: pages of one KV head, a table a head, the same lengths;
- `unequal`: the same with heads of unequal lengths, the same number of entries in all.

Prints the bytes that must be read and the time that takes at the device's peak bandwidth if it is known, then
microseconds a layer, each in a CUDA graph, and last one JSON line. It has not run on a GPU yet.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lavakv.attention.pages import PagedSequences, attend_one_by_one, attend_to_pages

QUERY_HEADS, KV_HEADS, HEAD_DIM, PAGE = 32, 8, 128, 16
PEAK_BYTES = {"H100": 3.35e12, "H200": 4.8e12, "A100": 2.0e12, "L4": 0.3e12}


class Case(NamedTuple):
    """Queries, pages and what is where; sequences are heads of requests.

    Attributes:
        queries: `[sequences, G, head_dim]`.
        keys: all pages, `[pages, heads that share one, N, head_dim]`.
        values: likewise.
        sequences: tables of requests where heads share pages, or of sequences.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    sequences: PagedSequences


def attend(case: Case) -> Tensor:
    """One decode step's attention of a layer, `[sequences, G, head_dim]`."""
    return attend_to_pages(*case, HEAD_DIM**-0.5)


def make_case(layout: str, requests: int, tokens: int, dtype: torch.dtype, device: str) -> Case:
    """Random entries in pages that lie in random order; `tokens` is the mean length of a head."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    sequences, shared = requests * KV_HEADS, KV_HEADS if layout == "all heads" else 1
    lengths = torch.full((sequences,), tokens)
    if layout == "unequal":
        shares = torch.linspace(0.25, 1.75, KV_HEADS).repeat(requests)
        shares[KV_HEADS - 1 :: KV_HEADS] += 1.25  # one long head in each request, the others make up for it
        shares *= KV_HEADS / shares[:KV_HEADS].sum()
        lengths = (tokens * shares).long().clamp(min=1)
    held = -(-lengths[::shared] // PAGE)
    order = torch.randperm(int(held.sum()), generator=generator)
    tables = torch.zeros(len(held), int(held.max()), dtype=torch.int32)
    tables[torch.arange(tables.shape[1]) < held[:, None]] = order.int()
    shape = len(order), shared, PAGE, HEAD_DIM
    keys, values = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(2))
    queries = torch.randn(sequences, QUERY_HEADS // KV_HEADS, HEAD_DIM, generator=generator)
    starts = torch.arange(sequences + 1, dtype=torch.int32, device=device)
    where = PagedSequences(tables.to(device), lengths.int().to(device), starts, most_new=1)
    return Case(queries.to(device, dtype), keys, values, where)


def exact(case: Case) -> Tensor:
    """The same in float64, one sequence after the other."""
    queries, keys, values, sequences = case
    return attend_one_by_one(queries.double(), keys.double(), values.double(), sequences, HEAD_DIM**-0.5)


def microseconds(run: Callable[[], Any]) -> float:
    """Median time of a call in a CUDA graph."""
    event: Any = partial(torch.cuda.Event, enable_timing=True)
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    times: list[float] = []
    for _ in range(30):
        begin, end = event(), event()
        begin.record()
        for _ in range(10):
            graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 100)
    return sorted(times)[len(times) // 2]


def main() -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", default="1,8,32")
    parser.add_argument("--tokens", default="2048,16384")
    options = parser.parse_args()
    dtype, name = torch.bfloat16, torch.cuda.get_device_name()
    peak = next((bytes_ for key, bytes_ in PEAK_BYTES.items() if key in name), None)
    found: list[dict[str, Any]] = []
    for requests in map(int, options.requests.split(",")):
        for tokens in map(int, options.tokens.split(",")):
            read = 2 * requests * KV_HEADS * tokens * HEAD_DIM * dtype.itemsize
            floor = f", at least {1e6 * read / peak:.1f} us" if peak else ""
            print(f"{requests} requests, mean {tokens} tokens: {read / 2**20:.1f} MiB{floor}")
            for layout in ("all heads", "one head", "unequal"):
                case = make_case(layout, requests, tokens, dtype, "cuda")
                one: dict[str, Any] = {"requests": requests, "tokens": tokens, "layout": layout}
                if requests * tokens <= 8192:
                    one["error"] = float((attend(case).double() - exact(case)).abs().max())
                one["us"] = round(microseconds(partial(attend, case)), 1)
                found.append(one)
                print("  " + ", ".join(f"{key} {value}" for key, value in list(one.items())[2:]))
    print(json.dumps({"device": name, "page": PAGE, "cases": found}))


if __name__ == "__main__":
    main()
