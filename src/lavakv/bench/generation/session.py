"""`generate` over prompt lengths and batches within one time limit, the largest batch, and then what is compiled."""

from __future__ import annotations

from typing import Any, NamedTuple

from lavakv.bench.floor import Floor, ModelSize
from lavakv.bench.generation.configurations import COMPILED, unavailable
from lavakv.bench.generation.largest_batch import LargestBatch, LargestBatchSearch
from lavakv.bench.generation.limit import Pace
from lavakv.bench.generation.reading import Reading
from lavakv.bench.generation.record import GenerateRecord
from lavakv.bench.generation.trial import GenerateTrial
from lavakv.bench.machine import Machine
from lavakv.bench.measured import Listener
from lavakv.bench.memory import at_most, available_bytes, free_memory
from lavakv.bench.settings import BenchSettings, Setting
from lavakv.bench.subject import Subject

_SEARCH_SECONDS = 20.0


class Plan(NamedTuple):
    """What a session measures.

    Attributes:
        tokens: prompt lengths.
        batch_sizes: sequences at once.
        budget: mean entries per KV head.
        largest_at: prompt length at which the largest batch is searched.
        most_bytes: memory that the largest batch may use in all, or None for the whole GPU.
        compiled: settings in which what is compiled is measured.
    """

    tokens: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    budget: int
    largest_at: int
    most_bytes: int | None
    compiled: tuple[Setting, ...]

    def settings(self) -> list[Setting]:
        """Every length and batch, the shortest first."""
        return [Setting(tokens, batch, self.budget) for tokens in self.tokens for batch in self.batch_sizes]


class GenerateSession:
    """Measures a plan. Each prompt is read for one sequence; larger batches repeat it.

    Args:
        subject: the model.
        settings: policy, window and number of new tokens.
        plan: what to measure.
        machine: measured, for the floors.
        pace: of the run.
        listener: is told each figure as soon as it is known.

    Attributes:
        machine: as given.
        floors: by setting.
        largest: what the searches of the largest batch found.
        skipped: what the time limit left out of a whole session, and why.
    """

    def __init__(
        self, subject: Subject, settings: BenchSettings, plan: Plan, machine: Machine, pace: Pace, listener: Listener
    ) -> None:
        self._subject, self._settings, self._plan = subject, settings, plan
        self.machine, self._pace, self._listener = machine, pace, listener
        self._size = ModelSize.of(subject.model)
        self._readings: dict[int, Reading] = {}
        self._trials: dict[Setting, GenerateTrial] = {}
        self.floors = {
            setting: Floor.of(self._size, machine, setting) for setting in sorted({*plan.settings(), *plan.compiled})
        }
        self.largest: list[LargestBatch] = []
        self.skipped: dict[str, str] = {}

    @property
    def records(self) -> dict[Setting, GenerateRecord]:
        """What was measured so far."""
        return {setting: trial.record for setting, trial in self._trials.items()}

    def trial(self, setting: Setting) -> GenerateTrial:
        """The trial of a setting, the same at every call."""
        if setting not in self._trials:
            reading = self._readings.get(setting.tokens) or self._reading(setting.tokens, 1)
            self._readings[setting.tokens] = reading
            self._trials[setting] = self._trial(setting, reading)
        return self._trials[setting]

    def decode(self, setting: Setting) -> dict[str, Any]:
        """Measure one setting without what is compiled; its record."""
        self._listener.say(f"{setting}:")
        return self.trial(setting).run().as_dict()

    def release_full(self, tokens: int) -> None:
        """Free the full cache of one prompt length."""
        if tokens in self._readings:
            self._readings[tokens].release_full()
            free_memory(self._subject.device)

    def search_largest(self) -> list[dict[str, Any]]:
        """Search the largest batch of the full cache, then of lavakv without and in a graph."""
        device, plan = self._subject.device, self._plan
        reason = unavailable("lavakv_graph", device) or self._pace.limit.reason_to_skip(_SEARCH_SECONDS)
        if reason is not None:
            self.skipped["largest_batch"] = reason
            self._listener.say(f"largest batch: skipped: {reason}")
            return []
        reading = self._readings[plan.largest_at]
        search = LargestBatchSearch(self._subject, reading, self._size, self.machine, self._pace, self._listener)
        with at_most(device, plan.most_bytes):
            for name in ("full_random", "lavakv", "lavakv_graph"):
                free_memory(device)
                known = next((found.batch_size for found in self.largest if found.configuration == "lavakv"), None)
                estimate = known if name == "lavakv_graph" else None
                self.largest.append(search.search(name, available_bytes(device, plan.most_bytes), estimate))
        return [found.as_dict() for found in self.largest]

    def compile(self, setting: Setting) -> dict[str, Any]:
        """Measure what is compiled in one setting; its record."""
        trial = self.trial(setting)
        for name in COMPILED:
            trial.decode(name)
        return trial.record.as_dict()

    def first_tokens(self, setting: Setting) -> dict[str, Any]:
        """Let a whole batch read its prompts; the setting's record."""
        reading = self._reading(setting.tokens, setting.batch_size)
        whole, record = self._trial(setting, reading), self.trial(setting).record
        whole.first_token("full")
        reading.release_full()
        whole.first_token("lavakv")
        record.first_token.update(whole.record.first_token)
        record.skipped.update(whole.record.skipped)
        record.not_available.update(whole.record.not_available)
        return record.as_dict()

    def _reading(self, tokens: int, batch_size: int) -> Reading:
        return Reading(self._subject, self._settings, tokens, batch_size, self._plan.budget)

    def _trial(self, setting: Setting, reading: Reading) -> GenerateTrial:
        num_tokens, pace = self._settings.new_tokens, self._pace
        return GenerateTrial(self._subject, reading, setting, self.floors[setting], num_tokens, pace, self._listener)
