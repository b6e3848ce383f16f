"""A script: an engine in bfloat16, of which a process holds only one; saves what it keeps of two prompts.

vLLM is made to choose as it does on a processor with AMX, whose kernels lay keys out in another way.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from vllm.v1.attention.backends import cpu_attn

from lavakv.selection.select import select
from tests.oracle.reference import survivors
from tests.vllm.engine import WINDOW, Engine, captured
from tests.vllm.model import as_lists, prompt

PROMPTS = [(777, 0), (600, 1)]


def main(folder: str, out: str) -> None:
    cpu_attn._get_attn_isa = lambda *_: "amx"
    engine = Engine(Path(folder), dtype="bfloat16")
    layers = engine.core.vllm_config.compilation_config.static_forward_context.values()
    found = []
    for one in PROMPTS:
        with captured() as captures:
            (got,) = engine.generate([prompt(*one)])
        name = next(reversed(engine.prompts))
        read, kept = engine.prompts[name], engine.evicted[name]
        again = select("lava", read.scores, read.plan.tokens_per_head, WINDOW)
        same = all(map(torch.equal, again.flat_positions, kept.flat_positions))
        expected = survivors(captures, read.plan.tokens_per_head, WINDOW)
        same = same and expected == as_lists(got.kept)
        found.append((got.kept, got.tokens, same))
    both = [got.tokens for got in engine.generate([prompt(*one) for one in PROMPTS])]
    kernels = {layer.isa for layer in layers}
    torch.save({"found": found, "together": both, "is_empty": engine.is_empty, "kernels": kernels}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
