"""Ways to quantise an entry, by what they do to the next tokens: groups of channels, offsets, a rotation.

Nothing is evicted; all but the window is quantised in each way, and the divergence from the full cache's next-token
distributions is averaged over its own greedy answer. Prompts come from JSON lines files as in kl.py. Prints a line a
way: bits, bytes of 64 numbers, geometric mean over the prompts, and the same for keys alone and values alone.

    python benchmarks/kv_groups.py data/*.jsonl --half choose --limit 6 --tokens 1100
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
from kl import MIN_NATS, prompts
from torch import Tensor

from lavakv.evaluation.sweep import Sweep
from lavakv.evaluation.variant import Variant
from lavakv.models.load import load
from lavakv.store.quantiser import Quantiser, _rotated
from lavakv.store.ragged import RaggedStore


class Way(NamedTuple):
    """How a vector is quantised; scales and offsets are bfloat16.

    Attributes:
        bits: of a code.
        group: channels that share a scale.
        levels: `offset` from the smallest number to the largest; `zero` an odd number of levels around zero; `even` an
            even number, none of them zero.
        rotated: by a Hadamard matrix first.
    """

    bits: int
    group: int
    levels: str
    rotated: bool

    @property
    def bytes_of_64(self) -> int:
        """Bytes of 64 numbers."""
        return 8 * self.bits + 64 // self.group * (4 if self.levels == "offset" else 2)

    def __call__(self, vectors: Tensor) -> Tensor:
        """What is left of `[entries, dim]`."""
        groups = (_rotated(vectors) if self.rotated else vectors).view(len(vectors), -1, self.group)
        low, high = groups.amin(dim=2, keepdim=True).bfloat16().float(), groups.amax(dim=2, keepdim=True)
        most = 2**self.bits - 1
        if self.levels == "offset":
            span, offset = (high - low) / most, low
        else:
            most -= self.levels == "zero"
            span, offset = groups.abs().amax(dim=2, keepdim=True) * 2 / most, torch.zeros_like(low)
        scale = span.bfloat16().float().clamp(min=1e-30)
        shift = 0 if self.levels == "offset" else most / 2
        read = (((groups - offset) / scale + shift).round().clamp(0, most) - shift) * scale + offset
        return _rotated(read.view(vectors.shape)) if self.rotated else read.view(vectors.shape)


WAYS = [Way(4, group, "even", True) for group in (16, 32, 64)]
WAYS += [Way(4, 32, "zero", rotated) for rotated in (True, False)]
WAYS += [Way(4, group, "offset", False) for group in (16, 32)] + [Way(4, 32, "offset", True)]
WAYS += [Way(8, 32, "even", True), Way(8, 32, "even", False), Way(8, 32, "zero", False), Way(8, 32, "offset", False)]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--half", choices=["choose", "report"], default="choose")
    parser.add_argument("--limit", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=1100)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def divergence(sweeps: list[Sweep], keys: Callable[[Tensor], Tensor], values: Callable[[Tensor], Tensor]) -> float:
    """Geometric mean over prompts, in nats."""
    stored = lambda _, own_keys, own_values: (keys(own_keys), values(own_values))  # noqa: E731
    with patch.object(RaggedStore, "_stored", stored):
        found = [next(iter(sweep.run([Variant("lava", budget=sweep.num_tokens)]))).kl_nats for sweep in sweeps]
    return math.exp(sum(math.log(max(nats, MIN_NATS)) for nats in found) / len(found))


if __name__ == "__main__":
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    loaded = load(chosen.model, dtype="float32", device="cpu")
    asked = [
        loaded.tokenizer(f"{one.context}\n\n{one.question}", return_tensors="pt").input_ids for one in prompts(chosen)
    ]
    read = [Sweep(loaded.model, truncated_ids) for truncated_ids in (ids[:, -chosen.tokens :] for ids in asked)]
    whole = Tensor.clone
    for way in WAYS:
        found = [divergence(read, *pair) for pair in ((way, way), (way, whole), (whole, way))]
        print(*way, way.bytes_of_64, *(f"{nats:.6f}" for nats in found), flush=True)
    for bits in (8, 4):
        ours = lambda vectors, bits=bits: Quantiser(bits, vectors.shape[1]).quantised_once(vectors)  # noqa: E731
        print("Quantiser", bits, f"{divergence(read, ours, ours):.6f}", flush=True)
