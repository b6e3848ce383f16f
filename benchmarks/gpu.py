"""Everything a GPU has to show, in one go: correctness first, then a model's cost, then its attention alone.

Needs no hub: the model has a named shape and random weights. Prints what was aimed at beside what was measured, and one
JSON line last. Exit code 2 without a GPU, 1 if a test fails.

    python benchmarks/gpu.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).parents[1]
NO_TESTS = 5  # pytest's exit code


class Goal(NamedTuple):
    """A number that is aimed at."""

    name: str
    aim: str
    value: float | None

    def __str__(self) -> str:
        return f"{self.name}: {'not measured' if self.value is None else f'{self.value:.3f}'} (aim: {self.aim})"


class Printer:
    """Prints what a benchmark says, with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def say(self, line: str) -> None:
        """A line of the report."""
        print(line, flush=True)

    def doing(self, what: str) -> None:
        """The next piece of work begins."""
        print(f"[{time.perf_counter() - self._start:5.0f} s] {what}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """Read the command line; the defaults are the figures that are aimed at."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llama-3.1-8b")
    parser.add_argument("--tokens", type=int, default=131072)
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=8, help="of the attention alone with skewed heads")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prefill-rounds", type=int, default=2, help="a prefill takes many seconds")
    parser.add_argument("--device", default="cuda", help="cpu rehearses the script")
    parser.add_argument("--no-tests", action="store_true")
    return parser.parse_args()


def correctness(device: str) -> str:
    """Run the GPU's tests in a process of their own; what came out, in words. Exits where one fails."""
    folder = ROOT / "tests" / "gpu"
    if device == "cpu" or not folder.is_dir():
        return "no GPU tests run"
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", str(folder)], cwd=ROOT, check=False)
    if done.returncode == NO_TESTS:
        return "no GPU tests found"
    if done.returncode:
        sys.exit(1)
    return "passed"


def goals(record: dict[str, Any], alone: dict[str, Any], skewed: dict[str, Any]) -> Iterator[Goal]:
    """Aims beside measurements."""
    yield Goal("a layer's attention, times faster than the full cache", "at least 9", alone["speedup_over_full"])
    yield Goal("the same, launched step by step", "at least 9", alone["speedup_over_full_eager"])
    yield Goal("a token over one of the plain cut cache", "at most 1.10", record["decode_ratio_to_floor"])
    yield Goal("bandwidth at the larger batch, of measured", "at least 0.70", skewed["bandwidth_fraction"])
    yield Goal("prefill over the full cache's", "at most 1.03", record["prefill_ratio"])
    yield Goal("KV bytes over entries times their size", "at most 1.03", record["nbytes_ratio"])
    yield Goal("prefill peak saved, of the full cache's bytes", "at least 0.80", record["prefill_peak_saving"])


def main() -> None:
    """Test, measure, print."""
    options = arguments()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("bench-gpu: no GPU that torch can use; nothing was measured.", file=sys.stderr)
        sys.exit(2)
    start = time.perf_counter()
    tests = "left out" if options.no_tests else correctness(options.device)
    from lavakv.bench.attention_part import AttentionPart
    from lavakv.bench.lines import attention_lines
    from lavakv.bench.run import Bench
    from lavakv.bench.settings import BenchSettings, Setting
    from lavakv.bench.subject import Subject

    settings = BenchSettings(
        (options.tokens,), (options.budget,), rounds=options.rounds, prefill_rounds=options.prefill_rounds
    )
    printer = Printer()
    printer.doing(f"making {options.shape}")
    subject = Subject.shaped(options.shape, "auto", options.device, None)
    bench = Bench(subject, settings, printer)
    (record,) = bench.run()
    parts = []
    for batch in (1, options.batch_size):
        printer.doing(f"attention alone, batch {batch}")
        setting = Setting(options.tokens, batch, options.budget)
        parts.append(AttentionPart.of(subject.model, setting, settings.window).measure(bench.machine))
        for line in attention_lines(parts[-1]):
            printer.say(line)
    for goal in goals(record, *parts):
        printer.say(str(goal))
    seconds = time.perf_counter() - start
    rest = {"gpu": bench.machine.name, "attention_parts": parts, "tests": tests, "seconds": seconds}
    print(json.dumps({**record, **bench.about(), **rest}, allow_nan=False))


if __name__ == "__main__":
    main()
