"""The benchmark of `generate` on a GPU: what a CPU cannot run is really run, and memory that is full ends nothing."""

from __future__ import annotations

import pytest
import torch

from lavakv.bench.floor import Floor, ModelSize
from lavakv.bench.generation.configurations import EAGER, GRAPHS
from lavakv.bench.generation.largest_batch import LargestBatchSearch
from lavakv.bench.generation.limit import Estimates, Pace, TimeLimit
from lavakv.bench.generation.reading import Reading
from lavakv.bench.generation.trial import GenerateTrial
from lavakv.bench.machine import Machine
from lavakv.bench.memory import at_most
from lavakv.bench.settings import BenchSettings, Setting
from lavakv.bench.subject import Subject

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
TOKENS, BUDGET, NUM_TOKENS = 1500, 128, 12
MACHINE = Machine("a GPU", "cuda", 1, 1e12, 1e14, "bfloat16")


class Silent:
    def say(self, line: str) -> None:
        pass

    def doing(self, what: str) -> None:
        pass


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.shaped("tiny", "bfloat16", "cuda", None)


@pytest.fixture(scope="module")
def reading(subject: Subject) -> Reading:
    return Reading(subject, BenchSettings(), TOKENS, 1, BUDGET)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_configuration_without_compilation_runs(batch_size, subject, reading) -> None:
    setting = Setting(TOKENS, batch_size, BUDGET)
    floor = Floor.of(ModelSize.of(subject.model), MACHINE, setting)
    pace = Pace(TimeLimit(None), Estimates())
    record = GenerateTrial(subject, reading, setting, floor, NUM_TOKENS, pace, Silent()).run()
    assert record.not_available == {}
    assert set(record.decoding) == {*EAGER, *GRAPHS}
    for name in GRAPHS:
        assert record.decoding[name].num_replays >= NUM_TOKENS
    for own in record.decoding.values():
        assert own.peak_bytes is not None
        assert own.peak_bytes >= own.kv_bytes
        assert own.bytes_beyond_cache is not None
    assert record.same_tokens == {"lavakv_graph": 1.0}


def test_the_largest_batch_is_found_although_memory_runs_out(subject, reading) -> None:
    pace = Pace(TimeLimit(60), Estimates())
    search = LargestBatchSearch(subject, reading, ModelSize.of(subject.model), MACHINE, pace, Silent())
    device = subject.device
    most = torch.cuda.memory_allocated(device) + 2**29
    with at_most(device, most):
        found = search.search("full_random", 2**30)  # twice what there is
    assert found.batch_size > 0
    assert found.too_large is not None
    assert found.decoding is not None
    assert torch.ones(2**28, device=device).numel() == 2**28, "the limit outlived the search"
