"""A script: an engine in bfloat16, of which a process holds only one; saves what it keeps of two prompts."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from lavakv.selection.select import select
from tests.vllm.engine import WINDOW, Engine
from tests.vllm.model import prompt

PROMPTS = [(777, 0), (600, 1)]


def main(folder: str, out: str) -> None:
    engine = Engine(Path(folder), dtype="bfloat16")
    found = []
    for one in PROMPTS:
        (got,) = engine.generate([prompt(*one)])
        name = next(reversed(engine.prompts))
        read, kept = engine.prompts[name], engine.evicted[name]
        again = select("lava", read.scores, read.plan.tokens_per_head, WINDOW)
        same = all(map(torch.equal, again.flat_positions, kept.flat_positions))
        found.append((got.kept, got.tokens, same))
    both = [got.tokens for got in engine.generate([prompt(*one) for one in PROMPTS])]
    torch.save({"found": found, "together": both, "is_empty": engine.is_empty}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
