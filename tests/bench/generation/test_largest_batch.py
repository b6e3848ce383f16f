"""The search for the largest batch, with memory that is only counted."""

from __future__ import annotations

import pytest
import torch

from lavakv.bench.floor import ModelSize
from lavakv.bench.generation import largest_batch as module
from lavakv.bench.generation.configurations import Configurations
from lavakv.bench.generation.largest_batch import LargestBatchSearch, estimated_batch, search_largest
from lavakv.bench.generation.limit import Estimates, Pace, TimeLimit
from lavakv.bench.generation.reading import Reading
from lavakv.bench.generation.record import DecodeRecord
from lavakv.bench.machine import Machine
from lavakv.bench.settings import BenchSettings
from tests.bench.generation.conftest import BUDGET, TOKENS

MACHINE = Machine("made up", "cpu", 1, 1e9, 1e9, "float32")


class Memory:
    """Holds so many sequences."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.tried: list[int] = []

    def works(self, count: int) -> DecodeRecord | None:
        self.tried.append(count)
        return None if count > self.capacity else DecodeRecord(0.1, None, count / 0.1, 1, 0, 0, None, None, 0, [])


@pytest.mark.parametrize("capacity", [1, 2, 7, 13, 100, 470, 1000])
@pytest.mark.parametrize("error", [0.8, 0.95, 1.0, 1.05, 1.3])
def test_the_largest_batch_is_found_near_the_estimate(capacity, error) -> None:
    memory = Memory(capacity)
    low, high, best = search_largest(memory.works, int(capacity * error), lambda: True)
    assert low <= capacity
    assert best is not None
    assert best.tokens_per_second == low / 0.1
    assert low >= 0.9 * capacity
    assert high is None or high > capacity
    assert len(memory.tried) <= 8
    assert len(set(memory.tried)) == len(memory.tried), "a batch was tried twice"


def test_a_good_estimate_ends_within_two_percent() -> None:
    memory = Memory(470)
    low, high, _ = search_largest(memory.works, 465, lambda: True)
    assert high is not None
    assert 470 - low <= 9


def test_nothing_fits() -> None:
    memory = Memory(0)
    assert search_largest(memory.works, 1, lambda: True) == (0, 1, None)
    assert memory.tried == [1]


def test_time_stops_the_search_after_a_first_try() -> None:
    memory = Memory(100)
    low, high, best = search_largest(memory.works, 80, lambda: False)
    assert (low, high) == (80, None)
    assert best is not None
    assert memory.tried == [80]


def test_the_estimate_leaves_gaps_for_the_allocator() -> None:
    assert estimated_batch(64 * 10**9, 134 * 10**6) == 463
    assert estimated_batch(10, 100) == 1


def _search(subject, heard, limit: TimeLimit | None = None) -> LargestBatchSearch:
    reading = Reading(subject, BenchSettings(), TOKENS, 1, BUDGET)
    pace = Pace(limit or TimeLimit(None), Estimates())
    return LargestBatchSearch(subject, reading, ModelSize.of(subject.model), MACHINE, pace, heard)


@pytest.fixture
def few_fit(monkeypatch) -> None:
    """Caches of more than five sequences run out of memory."""
    ready = Configurations.ready

    def limited(self, name):
        if self._setting.batch_size > 5:
            raise torch.OutOfMemoryError("tried to allocate")
        return ready(self, name)

    monkeypatch.setattr(Configurations, "ready", limited)


@pytest.mark.usefixtures("few_fit")
@pytest.mark.parametrize("name", ["full_random", "lavakv"])
def test_running_out_of_memory_ends_no_search(name, subject, heard) -> None:
    search = _search(subject, heard)
    found = search.search(name, 0, estimate=7)
    assert (found.batch_size, found.too_large, found.estimate, found.tokens) == (5, 6, 7, TOKENS)
    assert found.decoding is not None
    assert found.decoding.tokens_per_second == pytest.approx(5 / found.decoding.seconds_per_token)
    assert heard.lines[-1].startswith(f"largest batch at {TOKENS} tokens, {name}: 5 sequences (estimated 7, 6 do not")
    assert heard.pieces[0] == f"largest batch: {name}, 7 sequences"


@pytest.mark.usefixtures("few_fit")
def test_the_estimate_comes_from_bytes_and_compressed_sequences_need_fewer(subject, heard) -> None:
    search = _search(subject, heard)
    full, ours = (search._bytes_per_sequence(name) for name in ("full_random", "lavakv"))
    token = 2 * 3 * 2 * 16 * 4  # keys and values, layers, KV heads, head size, bytes
    assert full > TOKENS * token
    assert BUDGET * token < ours < full
    assert search.search("lavakv", 5 * ours).estimate == 4


@pytest.mark.usefixtures("few_fit")
def test_no_time_left_means_one_try(subject, heard) -> None:
    found = _search(subject, heard, TimeLimit(1.0)).search("lavakv", 0, estimate=3)
    assert (found.batch_size, found.too_large) == (3, None)
    assert len(heard.pieces) == 1


def test_other_errors_are_not_taken_for_a_full_memory(subject, heard, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(module, "timed_generate", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        _search(subject, heard).search("lavakv", 0, estimate=2)
