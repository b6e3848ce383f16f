"""All checks and measurements on a GPU: correctness first, then a model's cost, then its attention alone.

Needs no download: the model has a named shape and random weights. Prints each goal with its measurement, and one JSON
line last. Intermediate results are printed as such a line with `"partial": true`, so that an interrupted run still
yields results. Exit code 2 without a GPU; 1 if a test or a measurement fails, after everything else was measured.

lavakv must be installed, or its source on the path:

    PYTHONPATH=src python benchmarks/gpu.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:  # imported after the tests, and after the check for a GPU
    from lavakv.bench.layer_attention import LayerAttention
    from lavakv.bench.machine import Machine

ROOT = Path(__file__).parents[1]
NO_TESTS = 5  # pytest's exit code


class Goal(NamedTuple):
    """A figure, its goal and what was measured."""

    name: str
    aim: str
    value: float | None

    def __str__(self) -> str:
        return f"{self.name}: {'not measured' if self.value is None else f'{self.value:.3f}'} (aim: {self.aim})"


class Printer:
    """Prints the progress of a benchmark, with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def say(self, line: str) -> None:
        """A line of the report."""
        print(line, flush=True)

    def doing(self, what: str) -> None:
        """The next measurement begins."""
        print(f"[{time.perf_counter() - self._start:5.0f} s] {what}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """Read the command line; the defaults are the settings of the goals."""
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
    """Run the GPU tests in a separate process; returns their summary."""
    folder = ROOT / "tests" / "gpu"
    if device == "cpu" or not folder.is_dir():
        return "no GPU tests run"
    command = [sys.executable, "-m", "pytest", "-q", "-rs", str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    if done.returncode == NO_TESTS:
        return "no GPU tests found"
    counts = done.stdout.strip().rpartition("\n")[2]  # including skipped ones: without Triton all are
    return f"failed ({done.returncode}): {counts}" if done.returncode else counts


def goals(record: dict[str, Any], attention: list[dict[str, Any]]) -> Iterator[Goal]:
    """Goals with their measurements."""
    alone, skewed = attention
    yield Goal("a layer's attention, times faster than the full cache", "at least 9", alone.get("speedup_over_full"))
    yield Goal("the same, launched step by step", "at least 9", alone.get("speedup_over_full_eager"))
    yield Goal("a token over one of the plain cut cache", "at most 1.10", record.get("decode_ratio_to_floor"))
    yield Goal("bandwidth at the larger batch, of measured", "at least 0.70", skewed.get("bandwidth_fraction"))
    yield Goal("prefill over the full cache's", "at most 1.03", record.get("prefill_ratio"))
    yield Goal("KV bytes over entries times their size", "at most 1.03", record.get("nbytes_ratio"))
    yield Goal("prefill peak saved, of the full cache's bytes", "at least 0.80", record.get("prefill_peak_saving"))


class Run:
    """Runs all measurements in turn and keeps the results so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options, self._start, self._printer = options, time.perf_counter(), Printer()
        self._record: dict[str, Any] = {}
        self._attention: list[dict[str, Any]] = []
        self._failed: list[str] = []

    def _attempt(self, what: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do some work; an empty result, with the traceback on stderr, if it fails: the next one may not."""
        self._printer.doing(what)
        try:
            return work()
        except Exception:
            traceback.print_exc()
        self._failed.append(what)
        return {}

    def _measured(self, layer: LayerAttention, machine: Machine) -> dict[str, Any]:
        """Measure one layer's attention and print it."""
        record = layer.measure(machine)
        for line in record.lines():
            self._printer.say(line)
        return record.as_dict()

    def _print(self, about: dict[str, Any], **more: Any) -> None:
        """Print everything known as one JSON line."""
        seconds = time.perf_counter() - self._start
        rest = {"attention_parts": self._attention, "failed": self._failed, "seconds": seconds}
        print(json.dumps({**self._record, **about, **rest, **more}, allow_nan=False), flush=True)

    def all(self) -> int:
        """Test, measure, print; the exit code."""
        from lavakv.bench.layer_attention import LayerAttention
        from lavakv.bench.run import Bench
        from lavakv.bench.settings import BenchSettings, Setting
        from lavakv.bench.subject import Subject

        options, printer = self._options, self._printer
        tests = "left out" if options.no_tests else correctness(options.device)
        settings = BenchSettings(
            (options.tokens,), (options.budget,), rounds=options.rounds, prefill_rounds=options.prefill_rounds
        )
        printer.doing(f"making {options.shape}")
        subject = Subject.shaped(options.shape, "auto", options.device, None)
        bench = Bench(subject, settings, printer)
        self._record = self._attempt("the model", lambda: next(bench.run()).as_dict())
        about = {**bench.about(), "gpu": bench.machine.name, "tests": tests}
        self._print(about, partial=True)
        for batch in (1, options.batch_size):
            layer = LayerAttention.of(subject.model, Setting(options.tokens, batch, options.budget), settings.window)
            work = partial(self._measured, layer, bench.machine)
            self._attention.append(self._attempt(f"attention alone, batch {batch}", work))
            self._print(about, partial=True)
        for goal in goals(self._record, self._attention):
            printer.say(str(goal))
        self._print(about)
        return int(bool(self._failed) or tests.startswith("failed"))


def main() -> None:
    """See the top of this file."""
    options = arguments()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("bench-gpu: no GPU that torch can use; nothing was measured.", file=sys.stderr)
        sys.exit(2)
    sys.exit(Run(options).all())


if __name__ == "__main__":
    main()
