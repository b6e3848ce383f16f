"""The measurement of `generate` in one setting, a configuration after the other."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.bench.floor import Floor
from lavakv.bench.generation.call import Call, timed_generate
from lavakv.bench.generation.configurations import COMPILED, EAGER, GRAPHS, MEANINGS, Configurations, unavailable
from lavakv.bench.generation.limit import Estimates, TimeLimit
from lavakv.bench.generation.reading import Reading
from lavakv.bench.generation.record import SETUP_STEPS, DecodeRecord, FirstTokenRecord, GenerateRecord
from lavakv.bench.measured import Listener, reason_of
from lavakv.bench.settings import Setting
from lavakv.bench.subject import Subject

OURS = ("lavakv", "lavakv_graph", "lavakv_compiled")


class Pace(NamedTuple):
    """How long a run may go on, and what its parts take.

    Attributes:
        limit: of the run.
        estimates: of its parts.
    """

    limit: TimeLimit
    estimates: Estimates


class GenerateTrial:
    """Measures `generate` in one setting.

    Args:
        subject: the model.
        reading: of the setting's prompt length and budget, for a batch that divides the setting's.
        setting: prompt, batch and budget.
        floor: of the setting.
        num_tokens: tokens whose mean time is reported.
        pace: of the run.
        listener: is told each figure as soon as it is known.

    Attributes:
        record: what was measured so far.
    """

    def __init__(
        self, subject: Subject, reading: Reading, setting: Setting, floor: Floor, num_tokens: int, pace: Pace,
        listener: Listener,
    ) -> None:  # fmt: skip
        self._model, self._device, self._reading = subject.model, subject.device, reading
        self._num_new = 1 + SETUP_STEPS + num_tokens
        self._configurations = Configurations(subject, reading, setting, self._num_new)
        self._pace, self._listener = pace, listener
        self._expected: Tensor | None = None
        self.record = GenerateRecord(setting, floor, num_tokens)

    def run(self, compiled: bool = False) -> GenerateRecord:
        """Measure the first token, then every configuration.

        Args:
            compiled: whether to measure those that are compiled.

        Raises:
            Exception: what a configuration of lavakv, or the full cache, raises.
        """
        for name in ("full", "lavakv"):
            self.first_token(name)
        for name in (*EAGER, *GRAPHS, *(COMPILED if compiled else ())):
            self.decode(name)
        for line in self.record.lines():
            self._listener.say(line)
        return self.record

    def first_token(self, name: str) -> None:
        """Let one kind of cache read the prompt, unless it has.

        Args:
            name: `full` or `lavakv`.
        """
        what = f"first token: {name}"
        seconds = self._pace.estimates.prefill(self.record.floor)
        if self._does_not_fit(what, seconds):
            return
        self._listener.doing(what)
        call = self._attempt(name, what, lambda: getattr(self._reading, name).call)
        if call is None:
            return
        self._pace.estimates.note_prefill(self.record.floor, call.seconds[0])
        if self._reading.batch_size == self.record.setting.batch_size:
            self.record.first_token[name] = record = FirstTokenRecord.of(call)
            peak = "" if record.peak_bytes is None else f", peak {record.peak_bytes / 1e6:.1f} MB"
            self._say(name, f"first token after {record.seconds:.3g} s{peak}")

    def decode(self, name: str) -> None:
        """Measure one configuration's decoding.

        Args:
            name: a key of `MEANINGS`.
        """
        reason = unavailable(name, self._device)
        if reason is not None:
            self.record.not_available[name] = reason
            return
        seconds = self._pace.estimates.decode(self.record.floor, self._num_new, name in COMPILED)
        if self._does_not_fit(name, seconds):
            return
        self._listener.doing(f"generating: {name}")
        call = self._attempt(name, name, lambda: self._call(name))
        if call is None:
            return
        missing = _missing(name, call)
        if missing is not None:
            self.record.not_available[name] = missing
            self._say(name, missing)
            return
        floor = self.record.floor_of(name)
        self.record.decoding[name] = record = DecodeRecord.of(call, self.record.setting.batch_size, floor)
        self._compare_text(name, call.output)
        if name in COMPILED:
            self._pace.estimates.note_compilation(record.setup_seconds)
        self._say(name, str(record))

    def _call(self, name: str) -> Call:
        ready = self._configurations.ready(name)
        with ready.around():
            return timed_generate(self._model, ready.ids, ready.cache, self._num_new, ready.compile_config)

    def _compare_text(self, name: str, output: Tensor) -> None:
        """Note how many new tokens of one of lavakv's configurations are those that it chooses without a graph."""
        new = output[:, -self._num_new :]
        if name == "lavakv":
            self._expected = new
        elif name in OURS and self._expected is not None:
            self.record.same_tokens[name] = float((new == self._expected).float().mean())

    def _does_not_fit(self, what: str, seconds: float) -> bool:
        reason = self._pace.limit.reason_to_skip(seconds)
        if reason is not None:
            self.record.skipped[what] = reason
        return reason is not None

    def _attempt(self, name: str, what: str, work: Callable[[], Call]) -> Call | None:
        """Do some work; None, with the reason noted, if it runs out of memory or third-party code fails."""
        try:
            return work()
        except torch.OutOfMemoryError:
            reason = "out of memory"
        except Exception as error:  # compilers and caches of others may raise anything
            if name in OURS or name == "full":
                raise
            reason = reason_of(error)
        self.record.not_available[what] = reason
        self._say(name, reason)
        free_memory(self._device)  # not in the handler, where the error still holds what the work had made
        return None

    def _say(self, name: str, words: str) -> None:
        self._listener.say(f"  generate, {MEANINGS[name]}: {words}")


def _missing(name: str, call: Call) -> str | None:
    """Why a call did not run as its configuration says, or None: a fallback must not pass for the real thing."""
    why = "".join(f": {warning}" for warning in call.warnings)
    if name in GRAPHS and not call.num_replays:
        return f"decoded without a graph{why}"
    if name in COMPILED and not call.num_compiled:
        return f"decoded without compiling{why}"
    return None


def free_memory(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
