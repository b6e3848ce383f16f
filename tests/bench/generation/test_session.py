"""A plan of lengths and batches: what is read, searched and compiled in it."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from lavakv.bench.generation import session as module
from lavakv.bench.generation.largest_batch import LargestBatch, LargestBatchSearch
from lavakv.bench.generation.limit import Estimates, Pace, TimeLimit
from lavakv.bench.generation.session import GenerateSession, Plan
from lavakv.bench.machine import Machine
from lavakv.bench.settings import BenchSettings, Setting
from tests.bench.generation.conftest import ModelTime

MACHINE = Machine("made up", "cpu", 1, 1e9, 1e10, "float32")
PLAN = Plan((100, 150), (1, 2), 48, 100, 10**9, (Setting(150, 1, 48), Setting(100, 2, 48)))


@pytest.fixture
def session(subject, heard) -> GenerateSession:
    pace = Pace(TimeLimit(None), Estimates())
    return GenerateSession(subject, BenchSettings(new_tokens=2), PLAN, MACHINE, pace, heard)


def test_a_prompt_is_read_once_for_all_batches(session, model_time: ModelTime) -> None:
    for setting in PLAN.settings():
        session.decode(setting)
    # a warm-up and a prompt for each of two caches, and the cut cache's 48 tokens for each batch
    assert [model_time.forwards.count(count) for count in (100, 150, 48)] == [4, 4, 4]
    assert list(session.records) == PLAN.settings()
    assert {setting for setting, record in session.records.items() if record.first_token} == {
        (100, 1, 48),
        (150, 1, 48),
    }


def test_floors_are_known_before_anything_is_read(session, model_time: ModelTime) -> None:
    assert list(session.floors) == PLAN.settings()
    assert model_time.forwards == []


def test_a_full_cache_that_was_freed_is_not_kept(session) -> None:
    setting = Setting(100, 1, 48)
    session.decode(setting)
    reading = session._readings[100]
    assert reading.has_read("full")
    session.release_full(100)
    assert not reading.has_read("full")
    assert reading.has_read("lavakv")
    session.release_full(150)  # was never read


def test_whole_batches_are_read_afterwards(session, model_time: ModelTime) -> None:
    setting = Setting(100, 2, 48)
    session.decode(setting)
    assert session.records[setting].first_token == {}
    record = session.first_tokens(setting)
    assert {name: own["seconds"] for name, own in record["first_token"].items()} == {"full": 10, "lavakv": 10}
    assert set(session.records[setting].decoding) == {"full", "cut", "lavakv"}


def test_the_graphs_search_begins_where_the_one_without_ended(session, monkeypatch) -> None:
    begun = []

    def search(self, name, free_bytes, estimate=None) -> LargestBatch:
        begun.append((name, free_bytes, estimate))
        return LargestBatch(name, 100, estimate or 9, 7 if name == "lavakv" else 3, None, None)

    monkeypatch.setattr(module, "unavailable", lambda *_: None)
    monkeypatch.setattr(module, "at_most", lambda _, most: nullcontext(most))
    monkeypatch.setattr(module, "available_bytes", lambda _, most: most - 1)
    monkeypatch.setattr(LargestBatchSearch, "search", search)
    session.decode(Setting(100, 1, 48))
    found = session.search_largest()
    left = 10**9 - 1
    assert begun == [("full_random", left, None), ("lavakv", left, None), ("lavakv_graph", left, 7)]
    assert [one["configuration"] for one in found] == ["full_random", "lavakv", "lavakv_graph"]


@pytest.mark.parametrize("seconds", [None, 1.0])
def test_a_search_that_cannot_be_is_named(seconds, subject, heard, monkeypatch) -> None:
    if seconds is not None:
        monkeypatch.setattr(module, "unavailable", lambda *_: None)
    pace = Pace(TimeLimit(seconds), Estimates())
    session = GenerateSession(subject, BenchSettings(), PLAN, MACHINE, pace, heard)
    assert session.search_largest() == []
    assert ("no CUDA device" if seconds is None else "takes about") in session.skipped["largest_batch"]
