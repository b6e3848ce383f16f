"""A whole benchmark run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import torch
import transformers

from lavakv._version import __version__
from lavakv.bench.attention_record import AttentionRecord
from lavakv.bench.backends import backend_names
from lavakv.bench.configuration import empty_lavakv
from lavakv.bench.floor import Floor, ModelSize
from lavakv.bench.generation.configurations import num_generations
from lavakv.bench.generation.limit import ATTENTION_SECONDS, Estimates, Pace, TimeLimit
from lavakv.bench.generation.reading import Reading
from lavakv.bench.generation.record import GenerateRecord
from lavakv.bench.generation.trial import GenerateTrial
from lavakv.bench.layer_attention import LayerAttention
from lavakv.bench.machine import Machine, measure_machine
from lavakv.bench.measured import Listener
from lavakv.bench.memory import free_memory
from lavakv.bench.record import SettingRecord
from lavakv.bench.settings import BenchSettings, Setting
from lavakv.bench.subject import Subject
from lavakv.bench.trial import Trial, num_measurements
from lavakv.errors import InputError

Result = TypeVar("Result")


class Bench:
    """Measures all settings on one model.

    Args:
        subject: the model.
        settings: what to measure.
        listener: receives the progress.

    Attributes:
        left_out: settings that ran out of memory, each with the `part` that was skipped: `model`, `generate` or
            `attention_part` alone.
        skipped: settings that did not fit into the time limit, each with `part` and `reason`.

    Raises:
        LavaError: a setting that the model or policy does not support, before anything is measured.
    """

    def __init__(self, subject: Subject, settings: BenchSettings, listener: Listener) -> None:
        self._subject, self._settings, self._listener = subject, settings, listener
        self._size = ModelSize.of(subject.model)
        for setting in settings.each():
            subject.check(setting.tokens, empty_lavakv(subject.model, settings, setting.budget).cache)
        self._measured: Machine | None = None
        self.left_out: list[dict[str, Any]] = []
        self.skipped: list[dict[str, Any]] = []
        self._pace = Pace(TimeLimit(settings.seconds), Estimates())

    @property
    def num_measurements(self) -> int:
        """Number of calls of the listener's `doing` in the whole run."""
        generate = num_generations(self._settings, self._subject.device) if self._settings.generate else 0
        rest = generate + self._settings.attention_part
        return 1 + len(self._settings.each()) * (num_measurements(self._settings) + rest)

    def run(self) -> Iterator[SettingRecord]:
        """Measure and yield a record for each setting. Floors come before anything that is measured on the model.

        Raises:
            torch.OutOfMemoryError: every setting ran out of memory.
            InputError: none fits into the time limit.
        """
        self._listener.doing("the machine")
        machine = self._measured = measure_machine(self._subject.device, self._subject.model.dtype)
        self._listener.say(f"machine: {machine}")
        floors = {setting: Floor.of(self._size, machine, setting) for setting in self._settings.each()}
        for setting, floor in floors.items():
            self._listener.say(f"floor: {setting}: {floor}")
        num_records = 0
        for setting, floor in floors.items():
            self._listener.say(f"{setting}:")
            record = self._record(setting, floor)
            if record is not None:
                num_records += 1
                yield record
        if not num_records and self.skipped:
            raise InputError(
                "seconds", expected="time for at least one setting", got=str(self._settings.seconds),
                fix="Allow more, or use fewer tokens.",
            )  # fmt: skip
        if not num_records:
            raise torch.OutOfMemoryError("nothing was measured: no setting fits. Use fewer tokens or sequences")

    def _record(self, setting: Setting, floor: Floor) -> SettingRecord | None:
        """One setting, or None if it ran out of memory or of time."""
        if self._too_long(setting, "model", self._pace.estimates.trial(floor, self._settings)):
            return None
        found = self._if_it_fits(
            setting, "model", lambda: Trial(self._subject, self._settings, setting, self._listener).run()
        )
        if found is None:
            return None
        record = SettingRecord.of(setting, self._size, floor, found)
        for line in record.lines():
            self._listener.say(line)
        if self._settings.generate:
            record = replace(record, generate=self._generate(setting, floor))
        return replace(record, attention=self._attention(setting)) if self._settings.attention_part else record

    def _generate(self, setting: Setting, floor: Floor) -> GenerateRecord | None:
        reading = Reading(self._subject, self._settings, setting.tokens, setting.batch_size, setting.budget)
        num_tokens, compiled = self._settings.new_tokens, self._settings.compiled
        trial = GenerateTrial(self._subject, reading, setting, floor, num_tokens, self._pace, self._listener)
        return self._if_it_fits(setting, "generate", lambda: trial.run(compiled))

    def _attention(self, setting: Setting) -> AttentionRecord | None:
        if self._too_long(setting, "attention_part", ATTENTION_SECONDS):
            return None
        self._listener.doing("attention alone")
        layer = LayerAttention.of(self._subject.model, setting, self._settings.window_tokens)
        record = self._if_it_fits(setting, "attention_part", lambda: layer.measure(self.machine))
        for line in () if record is None else record.lines():
            self._listener.say(line)
        return record

    def _too_long(self, setting: Setting, part: str, seconds: float) -> bool:
        """Whether the time limit leaves out some work, which is noted."""
        reason = self._pace.limit.reason_to_skip(seconds)
        if reason is not None:
            self._listener.say(f"  {part}: skipped: {reason}")
            self.skipped.append({**setting._asdict(), "part": part, "reason": reason})
        return reason is not None

    def _if_it_fits(self, setting: Setting, part: str, work: Callable[[], Result]) -> Result | None:
        """Do some work; None, with a message, if it runs out of memory."""
        try:
            return work()
        except torch.OutOfMemoryError:
            self._listener.say(f"  {part}: left out: out of memory")
        self.left_out.append({**setting._asdict(), "part": part})
        free_memory(self._subject.device)  # not in the handler, where the error still holds what the work had made
        return None

    @property
    def machine(self) -> Machine:
        """The measured machine; only after the run has begun."""
        assert self._measured is not None
        return self._measured

    def about(self) -> dict[str, Any]:
        """Model, machine and settings, ready for JSON; only after the run has begun."""
        return about(self._subject, self._settings, self.machine)


def about(subject: Subject, settings: BenchSettings, machine: Machine) -> dict[str, Any]:
    """Model, machine, settings and versions, ready for JSON."""
    return {
        "model": subject.name,
        "weights": subject.weights,
        "dtype": str(subject.model.dtype).removeprefix("torch."),
        "attention": str(subject.model.config._attn_implementation),
        "sdpa_backends": backend_names(subject.device),
        **settings.about(),
        "machine": machine.about(),
        "versions": versions(),
    }


def versions() -> dict[str, str | None]:
    """Versions of the packages that the measurements depend on."""
    return {
        "lavakv": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
    }
