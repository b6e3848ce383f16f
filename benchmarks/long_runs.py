"""Memory and time of long lives: many generated tokens, a long prompt in chunks, a chat of many turns.

Prints what cannot be undercut first (weights read once a token at the measured bandwidth), then a line a part as it
goes, and one JSON line last. Text is made up; only lengths matter.

    python benchmarks/long_runs.py generation --tokens 10000 --bound 512
    python benchmarks/long_runs.py prompt --model DIR --tokens 32768 --chunk 1024 --budget 1024
    python benchmarks/long_runs.py chat --turns 40 --system 1000 --budget 512
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lavakv
from lavakv.bench.machine import read_bandwidth
from lavakv.hf.contract import cache_argument
from lavakv.models.load import load

PART = 1000  # tokens between two lines


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--policy", default="lava")
    parser.add_argument("--tokens", type=int, default=10_000, help="generated, or of the prompt")
    parser.add_argument("--bound", type=int, default=512, help="most mean entries per head while generating")
    parser.add_argument("--budget", type=int, help="mean entries per head; half the bound, or 512")
    parser.add_argument("--chunk", type=int, default=1024, help="tokens of a chunk of the prompt")
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--system", type=int, default=1000, help="tokens of the system prompt")
    parser.add_argument("--question", type=int, default=30, help="tokens of a turn's question")
    parser.add_argument("--answer", type=int, default=30, help="tokens of a turn's answer")
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def resident_mib() -> float:
    """Resident memory of this process, MiB (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def peak_mib() -> float:
    """The most that was ever resident, MiB (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def made_up(num_tokens: int, vocabulary: int, seed: int = 0) -> Tensor:
    """Token ids `[1, num_tokens]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(10, min(vocabulary, 20_000), (1, num_tokens), generator=generator)


@torch.no_grad()
def generation(model: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Decode step after step under a bound; positions may pass what the model was trained on."""
    budget = args.budget or args.bound // 2
    cache = lavakv.LavaCache(model.config, budget, args.policy, max_tokens_per_head=args.bound)
    named = cache_argument(model, cache)
    token = model(made_up(100, model.config.vocab_size), **named).logits[:, -1:].argmax(-1)
    parts = []
    for part in range(args.tokens // PART):
        start = time.perf_counter()
        for _ in range(PART):
            token = model(token, **named).logits[:, -1:].argmax(-1)
        seconds = time.perf_counter() - start
        held = float(cache.lengths().double().mean())
        parts.append({"ms_a_token": seconds, "resident_mib": resident_mib(), "held": held, "kv_bytes": cache.nbytes})
        print(
            f"tokens {(part + 1) * PART}: {seconds:.1f} ms a token, {resident_mib():.0f} MiB resident, {held:.0f} held"
        )
    ratio = parts[-1]["ms_a_token"] / parts[1]["ms_a_token"]
    return {"parts": parts, "last_over_second": ratio, "budget": budget, "bound": args.bound}


@torch.no_grad()
def prompt(model: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Read a prompt in chunks, evicting after each; memory beside the weights."""
    sum(float(weight.sum()) for weight in model.parameters())  # all of them are in memory from here on
    before, ids = resident_mib(), made_up(args.tokens, model.config.vocab_size)
    cache = lavakv.LavaCache(model.config, args.budget or 512, args.policy, evict="turns")
    start = time.perf_counter()
    for number, chunk in enumerate(torch.split(ids, args.chunk, dim=1)):
        model(chunk, **cache_argument(model, cache), logits_to_keep=1)
        if number % 4 == 3:
            print(f"tokens {cache.get_seq_length()}: {resident_mib() - before:.0f} MiB beside the weights")
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mib": peak_mib() - before, "held": float(cache.lengths().double().mean())}


def chat(model: Any, args: argparse.Namespace) -> dict[str, Any]:
    """A long system prompt, then questions and answers on one cache."""
    cache = lavakv.LavaCache(model.config, args.budget or 512, args.policy, evict="turns")
    ids, turns = made_up(args.system, model.config.vocab_size), []
    with torch.no_grad():
        model(ids, **cache_argument(model, cache), logits_to_keep=1)
    for turn in range(args.turns):
        ids = torch.cat([ids, made_up(args.question, model.config.vocab_size, turn + 1)], dim=1)
        clock = _Clock()
        options = {"max_new_tokens": args.answer, "min_new_tokens": args.answer, "do_sample": False, "streamer": clock}
        ids = model.generate(ids, attention_mask=torch.ones_like(ids), **cache_argument(model, cache), **options)
        turns.append({"first_token_ms": 1000 * clock.first, "kv_bytes": cache.nbytes, "seen": cache.get_seq_length()})
        print(f"turn {turn + 1}: first token after {1000 * clock.first:.0f} ms, {cache.nbytes} bytes")
    half = args.turns // 2
    early, late = (statistics.median(t["first_token_ms"] for t in part) for part in (turns[1:half], turns[half:]))
    return {"turns": turns, "early_ms": early, "late_ms": late, "bytes": sorted({turn["kv_bytes"] for turn in turns})}


class _Clock:
    """A streamer that times the first token."""

    def __init__(self) -> None:
        self.first, self._start, self._calls = 0.0, time.perf_counter(), 0

    def put(self, _: Tensor) -> None:
        """Called with the prompt, then with every token."""
        self._calls += 1
        if self._calls == 2:
            self.first = time.perf_counter() - self._start

    def end(self) -> None:
        """Called after the last token."""


PARTS: dict[str, Callable[[Any, argparse.Namespace], dict[str, Any]]] = {
    "generation": generation,
    "prompt": prompt,
    "chat": chat,
}


def main() -> None:
    """Run one part."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    model = lavakv.enable(load(args.model, dtype="float32", device="cpu").model)
    size = sum(weight.nbytes for weight in model.parameters())
    floor = 1000 * size / read_bandwidth(torch.device("cpu"))
    print(f"weights {size / 2**20:.0f} MiB, read once a token: {floor:.1f} ms; resident {resident_mib():.0f} MiB")
    record = PARTS[args.part](model, args)
    print(json.dumps({"part": args.part, "model": args.model, "floor_ms_a_token": floor, **record}))


if __name__ == "__main__":
    main()
