"""All checks and measurements on a GPU within a time limit: correctness, `generate`, attention alone, plain forwards.

Needs no download: the model has a named shape and random weights. Prints the floors first, each figure as it comes,
each goal with its measurement, and one JSON line last. What is done is also printed as JSON lines with
`"partial": true`, so that an interrupted run still yields results. What does not fit into the time is skipped and
named. Exit code 2 without a GPU; 1 if a test or a measurement fails, after everything else was measured.

lavakv must be installed, or its source on the path:

    PYTHONPATH=src python benchmarks/gpu.py
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported after the tests, and after the check for a GPU
    from lavakv.bench.generation.session import GenerateSession, Plan
    from lavakv.bench.layer_attention import LayerAttention
    from lavakv.bench.settings import BenchSettings
    from lavakv.bench.subject import Subject

ROOT = Path(__file__).parents[1]
NO_TESTS = 5  # pytest's exit code
GIGABYTE = 10**9
OTHER_PARTS = ("attention_part", "generate")  # of a setting's record; measured apart here


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


def as_json(value: Any) -> str:
    """A line of JSON with six significant digits, which is more than is measured."""
    return json.dumps(rounded(value), allow_nan=False)


def rounded(value: Any) -> Any:
    """The same with all floats rounded."""
    if isinstance(value, Mapping):
        return {name: rounded(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(own) for own in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def at_least(minimum: int, kind: type[int] | type[float] = int) -> Callable[[str], float]:
    """Reads a finite number that is not below a minimum."""

    def number(text: str) -> float:
        value = kind(text)
        if not minimum <= value < math.inf:
            raise argparse.ArgumentTypeError(f"expected a finite number, at least {minimum}, got {text}")
        return value

    return number


def lengths(text: str) -> tuple[float, ...]:
    """Prompt lengths separated by commas."""
    return tuple(map(at_least(1), text.split(",")))


def arguments() -> argparse.Namespace:
    """Read the command line; the defaults are the settings of the goals."""
    from lavakv.bench.shapes import SHAPES
    from lavakv.budgets.spec import DEFAULT_WINDOW

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    count, gigabytes, seconds = at_least(1), at_least(1, float), at_least(0, float)
    parser.add_argument("--shape", default="llama-3.1-8b", choices=tuple(SHAPES))
    parser.add_argument("--tokens", type=count, default=131072, help="longest prompt, of the goals at batch 1")
    parser.add_argument("--lengths", type=lengths, default=(8192, 32768), help="further prompts of generate")
    parser.add_argument("--largest-at", type=count, default=32768, help="prompt of the largest batch, one of those")
    parser.add_argument("--memory-gb", type=gigabytes, default=80.0, help="what the largest batch may use in all")
    parser.add_argument("--budget", type=at_least(DEFAULT_WINDOW + 1), default=1024)
    parser.add_argument("--batch-size", type=at_least(2), default=8, help="the larger batch")
    parser.add_argument("--new-tokens", type=count, default=32, help="tokens that generate is timed over")
    parser.add_argument("--rounds", type=count, default=7)
    parser.add_argument("--prefill-rounds", type=at_least(0), default=0, help="of plain forwards; each takes long")
    parser.add_argument("--seconds", type=seconds, default=300.0, help="what would end later is skipped; 0: no limit")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu rehearses the script")
    parser.add_argument("--no-tests", action="store_true")
    options = parser.parse_args()
    options.lengths = tuple(sorted({*options.lengths, options.tokens}))
    if options.largest_at not in options.lengths:
        parser.error(f"--largest-at: expected one of {options.lengths}, got {options.largest_at}")
    limit = SHAPES[options.shape]["max_position_embeddings"]
    if options.lengths[-1] > limit:
        parser.error(f"--tokens, --lengths: expected at most {limit}, the shape's positions, got {options.lengths[-1]}")
    return options


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


class Run:
    """Runs all measurements in turn and keeps the results so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        from lavakv.bench.generation.limit import Estimates, Pace, TimeLimit

        self._options, self._start, self._printer = options, time.perf_counter(), Printer()
        self._pace = Pace(TimeLimit(options.seconds or None), Estimates())
        self._record: dict[str, Any] = {
            "attention_parts": [{}, {}], "generate_results": [], "largest_batches": [], "skipped": {}, "failed": [],
        }  # fmt: skip

    def _attempt(self, what: str, work: Callable[[], Any], seconds: float = 0.0) -> Any:
        """Do some work; None, with the traceback on stderr, if it fails or does not fit: the next one may."""
        reason = self._pace.limit.reason_to_skip(seconds)
        if reason is not None:
            self._printer.say(f"{what}: skipped: {reason}")
            self._record["skipped"][what] = reason
            return None
        self._printer.doing(what)
        try:
            return work()
        except Exception:
            traceback.print_exc()
        self._record["failed"].append(what)
        return None

    def _partial(self, **known: Any) -> None:
        print(as_json({"partial": True, **known}), flush=True)

    def all(self) -> int:
        """Test, measure, print; the exit code."""
        from lavakv.bench.generation.session import GenerateSession
        from lavakv.bench.machine import measure_machine
        from lavakv.bench.run import about
        from lavakv.bench.settings import BenchSettings
        from lavakv.bench.subject import Subject

        options, printer = self._options, self._printer
        tests = "left out" if options.no_tests else correctness(options.device)
        printer.doing(f"making {options.shape}")
        subject = Subject.shaped(options.shape, "auto", options.device, None)
        settings = BenchSettings(
            (options.tokens,), (options.budget,), rounds=options.rounds, prefill_rounds=options.prefill_rounds,
            generate=False, new_tokens=options.new_tokens, seconds=options.seconds or None,
        )  # fmt: skip
        printer.doing("the machine")
        machine = measure_machine(subject.device, subject.model.dtype)
        printer.say(f"machine: {machine}")
        session = GenerateSession(subject, settings, self._plan(), machine, self._pace, printer)
        for setting, floor in session.floors.items():
            printer.say(f"floor: {setting}: {floor}")
        known = {**about(subject, settings, machine), "gpu": machine.name, "tests": tests}
        self._partial(**known)
        self._measure(session, subject, settings)
        self._finish(session, known)
        return int(bool(self._record["failed"]) or tests.startswith("failed"))

    def _plan(self) -> Plan:
        from lavakv.bench.generation.session import Plan
        from lavakv.bench.settings import Setting

        options = self._options
        longest = Setting(options.tokens, 1, options.budget)
        batch = Setting(options.largest_at, options.batch_size, options.budget)
        most = int(options.memory_gb * GIGABYTE)
        return Plan(
            options.lengths, (1, options.batch_size), options.budget, options.largest_at, most, (longest, batch)
        )

    def _measure(self, session: GenerateSession, subject: Subject, settings: BenchSettings) -> None:
        """Everything, the most important first."""
        plan = self._plan()
        for tokens in plan.tokens:
            for setting in (one for one in plan.settings() if one.tokens == tokens):
                self._generate(f"generate, {setting}", partial(session.decode, setting))
            session.release_full(tokens)
            if tokens == plan.largest_at:
                found = self._attempt("largest batch", session.search_largest)
                self._record["largest_batches"] = found or []
                self._partial(largest_batches=found)
        self._attention(session, subject, settings)
        first, second = plan.compiled
        self._generate(f"compiled, {first}", partial(session.compile, first))
        self._plain(session, subject, settings)
        self._generate(f"compiled, {second}", partial(session.compile, second))
        for setting in plan.settings():
            if setting.batch_size > 1 and setting.tokens < plan.tokens[-1]:
                self._generate(f"first token, {setting}", partial(session.first_tokens, setting))

    def _generate(self, what: str, work: Callable[[], dict[str, Any]]) -> None:
        found = self._attempt(what, work)
        if found is not None:
            self._partial(generate=found)

    def _attention(self, session: GenerateSession, subject: Subject, settings: BenchSettings) -> None:
        from lavakv.bench.generation.limit import ATTENTION_SECONDS
        from lavakv.bench.layer_attention import LayerAttention
        from lavakv.bench.settings import Setting

        def measured(layer: LayerAttention) -> dict[str, Any]:
            record = layer.measure(session.machine)
            for line in record.lines():
                self._printer.say(line)
            return record.as_dict()

        for index, batch in enumerate((1, self._options.batch_size)):
            setting = Setting(self._options.tokens, batch, self._options.budget)
            layer = LayerAttention.of(subject.model, setting, settings.window_tokens)
            work = partial(measured, layer)
            found = self._attempt(f"attention alone, batch {batch}", work, ATTENTION_SECONDS)
            self._record["attention_parts"][index] = found or {}
            self._partial(attention_part=found)

    def _plain(self, session: GenerateSession, subject: Subject, settings: BenchSettings) -> None:
        """Plain forwards with the longest prompt."""
        from lavakv.bench.floor import ModelSize
        from lavakv.bench.record import SettingRecord
        from lavakv.bench.trial import Trial

        (setting,) = settings.each()
        floor = session.floors[setting]

        def measured() -> dict[str, Any]:
            found = Trial(subject, settings, setting, self._printer).run()
            record = SettingRecord.of(setting, ModelSize.of(subject.model), floor, found)
            for line in record.lines():
                self._printer.say(line)
            return {name: value for name, value in record.as_dict().items() if name not in OTHER_PARTS}

        known = self._attempt("the model", measured, self._pace.estimates.trial(floor, settings)) or {}
        self._record.update(known)
        self._partial(**known)

    def _finish(self, session: GenerateSession, known: Mapping[str, Any]) -> None:
        """Goals, and everything known as one JSON line."""
        from lavakv.bench.goals import goals

        records = session.records
        line = {**self._record, **known, "seconds": time.perf_counter() - self._start}
        line["generate_results"] = [record.as_dict() for record in records.values()]
        line["skipped"] = {**line["skipped"], **session.skipped}
        of_goals = [records[setting] for setting in self._plan().compiled if setting in records]
        if line.get("prefill_ratio") is None and of_goals:
            line["prefill_ratio"] = of_goals[0].ratios().get("first_token_lavakv_to_full")
        for goal in goals({**line, "generate_goals": [record.as_dict() for record in of_goals]}):
            self._printer.say(str(goal))
        print(as_json(line), flush=True)


def main() -> None:
    """See the top of this file."""
    options = arguments()
    import torch  # not before the command line is known to be right

    if options.device == "cuda" and not torch.cuda.is_available():
        print("bench-gpu: no GPU that torch can use; nothing was measured.", file=sys.stderr)
        sys.exit(2)
    sys.exit(Run(options).all())


if __name__ == "__main__":
    main()
