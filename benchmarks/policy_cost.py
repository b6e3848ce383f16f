"""What each policy costs beside reading the prompt: `Policy.relative_cost`, as `lavakv policies` prints it.

A prompt is read and recorded; a cache is filled from it by one policy after the other, nothing shared between them. The
cost is the seconds of that (scoring, selecting, copying what is kept, and the replay where the policy needs one) over
the seconds of the prefill, medians over rounds in turns, in seconds of processor time, which other work on the machine
does not count. Prints a line a policy and one JSON line.

    python benchmarks/policy_cost.py TEXT.txt --tokens 2000 --keep 0.25 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import lavakv
from lavakv.evaluation.runner import PromptRunner
from lavakv.evaluation.variant import Variant
from lavakv.models.load import load


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="file whose first tokens are the prompt")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--keep", type=float, default=0.25)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--policies", default=",".join(lavakv.policies()))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    loaded = load(given.model, dtype="float32", device="cpu")
    ids = loaded.tokenizer(given.text.read_text(), return_tensors="pt").input_ids[:, : given.tokens]
    names = given.policies.split(",")
    _round(PromptRunner(loaded.model, ids[:, :200]), names, given.keep)  # builds kernels and warms up
    prefills, fills = [], []
    for _ in range(given.rounds):
        start = time.process_time()
        runner = PromptRunner(loaded.model, ids)
        prefills.append(time.process_time() - start)
        fills.append(_round(runner, names, given.keep))
    prefill = statistics.median(prefills)
    costs = {name: statistics.median(seconds[name] for seconds in fills) / prefill for name in names}
    for name, cost in costs.items():
        print(f"{name:22} {cost:.4f}")
    about = {"model": given.model, "tokens": ids.shape[1], "keep": given.keep, "threads": given.threads}
    print(json.dumps({**about, "prefill_seconds": prefill, "costs": costs}))


def _round(runner: PromptRunner, names: Sequence[str], keep: float) -> dict[str, float]:
    return {name: _fill_seconds(runner, Variant(name, keep=keep)) for name in names}


def _fill_seconds(runner: PromptRunner, variant: Variant) -> float:
    """Seconds of one policy, with nothing that an earlier one computed."""
    recording = runner.recording
    for shared in (recording.scored, recording.ranked, recording.replays):
        shared.clear()
    for prompt in recording.layers.values():
        prompt.windows.clear()
    start = time.process_time()
    runner.fill([variant])
    return time.process_time() - start


if __name__ == "__main__":
    main()
