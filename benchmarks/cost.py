"""What compression costs in the prefill and saves in decoding, on one model and one prompt.

Measured in the same run, in turns: the full cache, a plain cache of `budget` tokens (the floor of what eviction can
give) and lavakv. Prints the machine's floor first and one JSON line last.

    python benchmarks/cost.py --tokens 4096 --budget 512
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
from contextlib import nullcontext
from typing import Any

import torch
import transformers
from machine import multiply_rate, read_bandwidth
from transformers import DynamicCache

import lavakv
from lavakv.models.load import load


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--budget", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8, help="decode steps of each cache in a round")
    return parser.parse_args()


def print_floor(model: Any, options: argparse.Namespace) -> None:
    """What the hardware allows: operations for the prefill, bytes for a decode step."""
    bandwidth, rate = read_bandwidth(), multiply_rate()
    config = model.config
    weights = sum(p.numel() for p in model.parameters())
    entry_bytes = 2 * config.head_dim * 4 * config.num_hidden_layers * config.num_key_value_heads
    attention = 2 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * options.tokens**2
    prefill = (2 * weights * options.tokens + attention) / rate
    print(f"floor: {bandwidth / 1e9:.1f} GB/s read, {rate / 1e9:.0f} Gflop/s; prefill {prefill:.2f} s")
    for name, tokens in (("full", options.tokens), ("budget", options.budget)):
        print(f"floor: decode step, {name} cache: {1e3 * (4 * weights + tokens * entry_bytes) / bandwidth:.1f} ms")


def prefill(model: Any, ids: torch.Tensor, cache: Any) -> float:
    """Seconds of one prefill into an empty cache."""
    gc.collect()
    start = time.perf_counter()
    model(ids, past_key_values=cache, logits_to_keep=1)
    return time.perf_counter() - start


def compare_prefill(model: Any, ids: torch.Tensor, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Seconds of plain and lavakv prefills, in pairs whose order alternates."""
    plain: list[float] = []
    lava: list[float] = []
    for index in range(options.rounds + 1):
        for kind in ("plain", "lava") if index % 2 else ("lava", "plain"):
            with lavakv.enabled(model) if kind == "lava" else nullcontext():
                cache = lavakv.LavaCache(model.config, options.budget) if kind == "lava" else DynamicCache()
                (lava if kind == "lava" else plain).append(prefill(model, ids, cache))
    return plain[1:], lava[1:]


def compare_decode(model: Any, ids: torch.Tensor, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds a token of each cache, taken in turns."""
    caches = {"full": DynamicCache(), "floor": DynamicCache(), "lava": lavakv.LavaCache(model.config, options.budget)}
    seconds: dict[str, list[float]] = {name: [] for name in caches}
    for name, cache in caches.items():
        with lavakv.enabled(model) if name == "lava" else nullcontext():
            model(ids[:, -options.budget :] if name == "floor" else ids, past_key_values=cache, logits_to_keep=1)
    for index in range(options.rounds + 1):
        names = list(caches)
        for name in names[index % 3 :] + names[: index % 3]:
            with lavakv.enabled(model) if name == "lava" else nullcontext():
                start = time.perf_counter()
                for _ in range(options.steps):
                    model(ids[:, :1], past_key_values=caches[name])
                seconds[name].append((time.perf_counter() - start) / options.steps)
    return {name: values[1:] for name, values in seconds.items()}


def ratio(numerators: list[float], denominators: list[float]) -> float:
    """Median of the ratios of pairs."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def nbytes_ratio(model: Any, ids: torch.Tensor, options: argparse.Namespace) -> float:
    """Allocated bytes after the prefill, as a multiple of the entries held."""
    cache = lavakv.LavaCache(model.config, options.budget)
    with lavakv.enabled(model):
        model(ids, past_key_values=cache, logits_to_keep=1)
    head_dim: int = model.config.head_dim
    return cache.nbytes / (int(cache.lengths().sum()) * 2 * head_dim * 4)


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    options = arguments()
    model = load(options.model, dtype="float32", device="cpu").model
    ids = torch.randint(5, model.config.vocab_size, (1, options.tokens), generator=torch.Generator().manual_seed(0))
    print_floor(model, options)
    plain, lava = compare_prefill(model, ids, options)
    print(f"prefill: plain {statistics.median(plain):.2f} s, lavakv {statistics.median(lava):.2f} s")
    decode = compare_decode(model, ids, options)
    print("decode: " + ", ".join(f"{name} {1e3 * statistics.median(s):.1f} ms" for name, s in decode.items()))
    record = {
        "prefill_ratio": ratio(lava, plain),
        "decode_ratio_to_floor": ratio(decode["lava"], decode["floor"]),
        "decode_ratio_to_full": ratio(decode["lava"], decode["full"]),
        "nbytes_ratio": nbytes_ratio(model, ids, options),
        **vars(options),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
