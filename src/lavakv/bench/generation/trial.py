"""The measurement of `generate` in one setting, a configuration after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lavakv.bench.floor import Floor
from lavakv.bench.generation.call import Call, timed_generate
from lavakv.bench.generation.configurations import COMPILED, EAGER, GRAPHS, MEANINGS, Configurations, unavailable
from lavakv.bench.generation.limit import Pace
from lavakv.bench.generation.reading import Reading
from lavakv.bench.generation.record import SETUP_STEPS, DecodeRecord, FirstTokenRecord, GenerateRecord
from lavakv.bench.measured import Listener, reason_of
from lavakv.bench.memory import free_memory
from lavakv.bench.settings import Setting
from lavakv.bench.subject import Subject

FIRST_TOKEN = "first token: "
OURS = ("lavakv", "lavakv_graph", "lavakv_compiled")


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
        what = f"{FIRST_TOKEN}{name}"
        if self._does_not_fit(what, self._reading_seconds(name)):
            return
        self._listener.doing(what)
        is_new = not self._reading.has_read(name)
        call = self._attempt(what, lambda: getattr(self._reading, name).call)
        if call is None:
            return
        if is_new:
            self._pace.estimates.note_prefill(self._reading_floor, call.seconds[0])
        if self._reading.batch_size == self.record.setting.batch_size:
            self.record.first_token[name] = record = FirstTokenRecord.of(call)
            self._say(name, str(record))

    def decode(self, name: str) -> None:
        """Measure one configuration's decoding.

        Args:
            name: a key of `MEANINGS`.
        """
        source = "lavakv" if name in OURS else name if name == "full" else None
        reason = unavailable(name, self._device) or self.record.not_available.get(f"{FIRST_TOKEN}{source}")
        if reason is not None:
            self.record.not_available[name] = reason
            return
        seconds = self._pace.estimates.decode(self.record.floor, self._num_new)
        seconds += self._pace.estimates.compilation(name) if name in COMPILED else 0.0
        if self._does_not_fit(name, seconds + (0.0 if source is None else self._reading_seconds(source))):
            return
        self._listener.doing(f"generating: {name}")
        call = self._attempt(name, lambda: self._call(name))
        if call is not None:
            self._note(name, call)

    def _note(self, name: str, call: Call) -> None:
        missing = missing_reason(name, call)
        if missing is not None:
            self.record.not_available[name] = missing
            self._say(name, missing)
            return
        floor = self.record.floor_of(name)
        self.record.decoding[name] = record = DecodeRecord.of(call, self.record.setting.batch_size, floor)
        self._compare_text(name, call.output)
        if name in COMPILED:
            self._pace.estimates.note_compilation(name, record.setup_seconds)
        self._say(name, str(record))

    @property
    def _reading_floor(self) -> float:
        """Physical floor of the batch that is read."""
        setting = self.record.setting
        return self.record.floor.prefill_seconds * self._reading.batch_size / setting.batch_size

    def _reading_seconds(self, name: str) -> float:
        return 0.0 if self._reading.has_read(name) else self._pace.estimates.prefill(self._reading_floor)

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

    def _attempt(self, what: str, work: Callable[[], Call]) -> Call | None:
        """Do some work; None, with the reason noted, if it runs out of memory or third-party code fails."""
        name = what.removeprefix(FIRST_TOKEN)
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


def missing_reason(name: str, call: Call) -> str | None:
    """Why a call did not run as its configuration says, or None: a fallback must not pass for the real thing."""
    reasons = call.warnings if call.refusal is None else [call.refusal]
    why = "".join(f": {reason}" for reason in reasons)
    if name in (*GRAPHS, "lavakv_compiled") and not call.num_replays:
        return f"decoded without a graph{why}"
    if name in COMPILED and not call.num_compiled:
        return f"decoded without compiling{why}"
    return None
