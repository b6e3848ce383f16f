"""A reading, a trial and a clock that only moves when the model does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from lavakv.bench.floor import Floor
from lavakv.bench.generation import token_clock
from lavakv.bench.generation.limit import Estimates, Pace, TimeLimit
from lavakv.bench.generation.reading import Reading
from lavakv.bench.generation.trial import GenerateTrial
from lavakv.bench.settings import BenchSettings, Setting
from lavakv.bench.subject import Subject
from tests.bench.conftest import Heard

TOKENS, BUDGET, NUM_TOKENS = 120, 48, 6
FLOOR = Floor(0.5, 0.02, 0.01)
MakeTrial = Callable[..., GenerateTrial]


@pytest.fixture
def make_trial(subject: Subject, heard: Heard) -> MakeTrial:
    def make(batch_size: int = 1, read_batch: int = 1, limit: TimeLimit | None = None) -> GenerateTrial:
        reading = Reading(subject, BenchSettings(), TOKENS, read_batch, BUDGET)
        pace = Pace(limit or TimeLimit(None), Estimates())
        return GenerateTrial(subject, reading, Setting(TOKENS, batch_size, BUDGET), FLOOR, NUM_TOKENS, pace, heard)

    return make


class ModelTime:
    """Seconds that pass only in a model's forwards.

    Attributes:
        now: seconds.
        forwards: new tokens of each.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.forwards: list[int] = []


@pytest.fixture
def model_time(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelTime]:
    """A forward of one token takes a quarter of a second, the fifth takes two seconds, a prompt ten."""
    time = ModelTime()

    def passes(module, args, kwargs, output) -> None:
        count = (args[0] if args else kwargs["input_ids"]).shape[1]
        time.forwards.append(count)
        time.now += 10 if count > 1 else 2 if len(time.forwards) == 5 else 0.25

    monkeypatch.setattr(token_clock.time, "perf_counter", lambda: time.now)
    handle = subject.model.register_forward_hook(passes, with_kwargs=True)
    yield time
    handle.remove()
