"""Survivors in fewer bits against more survivors: divergence from the full cache at equal bytes.

Prompts come from JSON lines files as in kl.py. A cache may take a share of the full cache's bytes; eviction alone keeps
that share of the entries, 8 and 4 bits keep more of them. Bytes are those of a model whose numbers take --itemsize
bytes, whatever the dtype it is computed in. Prints a line a prompt, then geometric means and one JSON line.

    python benchmarks/kv_bits.py data/*.jsonl --half report --limit 12 --tokens 1300
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path

import torch
from kl import MIN_NATS, MODES, prompts, truncated

from lavakv.budgets.spec import KvBits
from lavakv.evaluation.sweep import Sweep
from lavakv.evaluation.variant import Variant
from lavakv.hf.geometry import geometry_of
from lavakv.hf.memory import column_bytes
from lavakv.models.load import load

WINDOW = 32
BITS: tuple[KvBits | None, ...] = (None, 8, 4)
Cell = tuple[str, str, KvBits | None, float]  # mode, policy, bits, share


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--half", choices=["choose", "report"], required=True)
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--policies", default="lava,residual")
    parser.add_argument("--shares", default="0.5,0.25,0.125,0.0625")
    parser.add_argument("--itemsize", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=1300)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def entries(num_tokens: int, share: float, sizes: tuple[int, int]) -> int:
    """Mean entries per head, window included, that take a share of the bytes of all tokens in full precision."""
    whole, kept = sizes
    left = share * num_tokens * whole - WINDOW * whole
    return min(WINDOW + max(math.floor(left / kept), 1), num_tokens)


def run(options: argparse.Namespace) -> dict[Cell, list[float]]:
    """Divergences in nats, one a prompt."""
    loaded = load(options.model, dtype="float32", device="cpu")
    geometry, found = geometry_of(loaded.model.config), defaultdict[Cell, list[float]](list)
    shares = [float(share) for share in options.shares.split(",")]
    cells = [(policy, bits, share) for policy in options.policies.split(",") for bits in BITS for share in shares]
    for prompt in prompts(options):
        ids = truncated(loaded.tokenizer, prompt.context, options.tokens)
        asked = loaded.tokenizer("\n\n" + prompt.question, return_tensors="pt", add_special_tokens=False).input_ids
        aware = Sweep(loaded.model, torch.cat([ids, asked], dim=1))
        for mode, sweep in zip(MODES, (aware, aware.asked_later(ids.shape[1])), strict=True):
            budgets = [
                entries(sweep.num_tokens, share, column_bytes(geometry, options.itemsize, bits))
                for _, bits, share in cells
            ]
            pairs = zip(cells, budgets, strict=True)
            variants = [Variant(policy, budget=b, window=WINDOW, kv_bits=bits) for (policy, bits, _), b in pairs]
            for cell, row in zip(cells, sweep.run(variants), strict=True):
                found[mode, *cell].append(max(row.kl_nats, MIN_NATS))
        print(f"{prompt.name}: {ids.shape[1]} + {asked.shape[1]} tokens", flush=True)
    return found


def summarise(options: argparse.Namespace, found: dict[Cell, list[float]]) -> None:
    """Geometric means; one JSON line last."""
    means = {cell: math.exp(sum(map(math.log, rows)) / len(rows)) for cell, rows in found.items()}
    for cell, mean in means.items():
        print(*cell, f"{mean:.5f}")
    count = len(next(iter(found.values())))
    rows = [[*cell, round(mean, 6)] for cell, mean in means.items()]
    print(json.dumps({"model": options.model, "prompts": count, "itemsize": options.itemsize, "kl_nats": rows}))


if __name__ == "__main__":
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    summarise(chosen, run(chosen))
