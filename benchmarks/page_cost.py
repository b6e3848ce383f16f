"""What attention over pages of one KV head costs on a GPU, beside pages of all heads: what a GPU backend depends on.

    python benchmarks/page_cost.py [--requests 1,8,32] [--tokens 2048,16384] [--device cuda]

Inside vLLM an evicted request has pages of one head, and every head of every request is a sequence of its own with its
own page table (docs/vllm.md). One Triton kernel serves both layouts here, with torch and Triton alone, so that nothing
but the layout differs:

- `all heads`: pages of all KV heads, one table a request, as vLLM keeps them;
- `one head`: pages of one KV head, a table a head, the same lengths;
- `unequal`: the same with heads of unequal lengths, the same number of entries in all.

Prints the bytes that must be read and the time that takes at the device's peak bandwidth if it is known, then
microseconds a layer, each in a CUDA graph, and last one JSON line. On a CPU (`--device cpu`, Triton's interpreter) it
only checks the kernel. It has not run on a GPU yet.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

if "cpu" in sys.argv:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported
import triton
import triton.language as tl

QUERY_HEADS, KV_HEADS, HEAD_DIM, PAGE = 32, 8, 128, 16
SPLIT, BLOCK, ROWS = 512, 64, 16  # tokens of a program, of a step in it, and rows of queries after padding
PEAK_BYTES = {"H100": 3.35e12, "H200": 4.8e12, "A100": 2.0e12, "L4": 0.3e12}


class Case(NamedTuple):
    """Queries, pages and what is where; sequences are heads of requests.

    Attributes:
        queries: `[sequences, G, head_dim]`.
        keys: all pages, flat.
        values: likewise.
        tables: int32 `[requests or sequences, most]`.
        lengths: int32 `[sequences]`.
        heads_per_table: sequences that share a row of the tables, side by side in each page.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    tables: Tensor
    lengths: Tensor
    heads_per_table: int


@triton.jit
def _attend(
    queries, keys, values, tables, lengths, parts, weights, most, num_splits, scale,
    HEADS: tl.constexpr, G: tl.constexpr, D: tl.constexpr, N: tl.constexpr,
    SPLIT: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    sequence, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    length = tl.load(lengths + sequence)
    rows, dims = tl.arange(0, ROWS), tl.arange(0, D)
    place = (sequence * num_splits + split) * G + rows
    peak = tl.full((ROWS,), -1e30, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    summed = tl.zeros((ROWS, D), tl.float32)
    query = tl.load(queries + (sequence * G + rows)[:, None] * D + dims, mask=rows[:, None] < G, other=0.0)
    table, head = tables + (sequence // HEADS) * most, sequence % HEADS
    for step in range(SPLIT // BLOCK):  # places behind the length are not read
        tokens = split * SPLIT + step * BLOCK + tl.arange(0, BLOCK)
        seen = tokens < length
        page = tl.load(table + tokens // N, mask=seen, other=0).to(tl.int64)
        at = ((page * N + tokens % N) * HEADS + head)[:, None] * D + dims
        key = tl.load(keys + at, mask=seen[:, None], other=0.0)
        logits = tl.where(seen[None, :], tl.dot(query, tl.trans(key)) * scale, -1e30)
        highest = tl.maximum(peak, tl.max(logits, 1))
        shares = tl.where(seen[None, :], tl.exp(logits - highest[:, None]), 0.0)
        shrink = tl.exp(peak - highest)
        value = tl.load(values + at, mask=seen[:, None], other=0.0)
        summed = summed * shrink[:, None] + tl.dot(shares.to(value.dtype), value)
        total = total * shrink + tl.sum(shares, 1)
        peak = highest
    kept = (rows < G)[:, None]
    tl.store(parts + place[:, None] * D + dims, summed / tl.maximum(total, 1e-30)[:, None], mask=kept)
    tl.store(weights + place, tl.where(total > 0, peak + tl.log(tl.maximum(total, 1e-30)), -1e30), mask=rows < G)


def attend(case: Case) -> Tensor:
    """One decode step's attention of a layer, `[sequences, G, head_dim]` in float32."""
    sequences, group, dim = case.queries.shape
    splits = -(-case.tables.shape[1] * PAGE // SPLIT)
    parts = case.queries.new_empty((sequences, splits, group, dim), dtype=torch.float32)
    weights = case.queries.new_empty((sequences, splits, group), dtype=torch.float32)
    _attend[(sequences, splits)](
        case.queries, case.keys, case.values, case.tables, case.lengths, parts, weights, case.tables.shape[1],
        splits, dim**-0.5, HEADS=case.heads_per_table, G=group, D=dim, N=PAGE, SPLIT=SPLIT, BLOCK=BLOCK, ROWS=ROWS,
    )  # fmt: skip
    return (parts * weights.softmax(1)[..., None]).sum(1)


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
    size = len(order) * PAGE * shared * HEAD_DIM
    keys, values = (torch.randn(size, generator=generator, dtype=torch.float32).to(device, dtype) for _ in range(2))
    queries = torch.randn(sequences, QUERY_HEADS // KV_HEADS, HEAD_DIM, generator=generator)
    return Case(queries.to(device, dtype), keys, values, tables.to(device), lengths.int().to(device), shared)


def exact(case: Case) -> Tensor:
    """The same in float64, one sequence after the other."""
    found = []
    for sequence, length in enumerate(case.lengths.tolist()):
        table = case.tables[sequence // case.heads_per_table].long()
        pages = (-1, PAGE, case.heads_per_table, HEAD_DIM)
        head = sequence % case.heads_per_table
        key, value = (one.view(pages)[table][:, :, head].flatten(0, 1)[:length].double() for one in case[1:3])
        shares = (case.queries[sequence].double() @ key.T * HEAD_DIM**-0.5).softmax(-1)
        found.append(shares @ value)
    return torch.stack(found)


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
    """Measure every case, or check the kernel on a CPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", default="1,8,32")
    parser.add_argument("--tokens", default="2048,16384")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    peak = next((bytes_ for key, bytes_ in PEAK_BYTES.items() if key in name), None)
    found: list[dict[str, Any]] = []
    for requests in map(int, options.requests.split(",")):
        for tokens in map(int, options.tokens.split(",")):
            read = 2 * requests * KV_HEADS * tokens * HEAD_DIM * dtype.itemsize
            floor = f", at least {1e6 * read / peak:.1f} us" if peak else ""
            print(f"{requests} requests, mean {tokens} tokens: {read / 2**20:.1f} MiB{floor}")
            for layout in ("all heads", "one head", "unequal"):
                case = make_case(layout, requests, tokens, dtype, options.device)
                one: dict[str, Any] = {"requests": requests, "tokens": tokens, "layout": layout}
                if requests * tokens <= 8192:
                    one["error"] = float((attend(case).double() - exact(case)).abs().max())
                if on_gpu:
                    one["us"] = round(microseconds(partial(attend, case)), 1)
                found.append(one)
                print("  " + ", ".join(f"{key} {value}" for key, value in list(one.items())[2:]))
    print(json.dumps({"device": name, "page": PAGE, "cases": found}))


if __name__ == "__main__":
    main()
