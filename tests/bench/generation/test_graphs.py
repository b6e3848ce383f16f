"""Graphs and what is compiled in the benchmark, with graphs that a CPU records."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lavakv.bench.generation import plain_graph
from lavakv.bench.generation import trial as module
from lavakv.hf.graph import backend
from lavakv.hf.graph.host_reads import RefuseHostReads
from tests.bench.generation.conftest import NUM_TOKENS, MakeTrial
from tests.hf.graph.fake import FakeGraph

CPU = torch.device("cpu")


@pytest.fixture
def everything_runs(monkeypatch) -> None:
    """A CPU that has graphs: the plain cache's step must hold nothing that a CUDA graph cannot."""

    def captured(work: Callable[[], None]) -> Callable[[], None]:
        work()
        with RefuseHostReads(CPU):
            work()
        return lambda: torch.cuda.CUDAGraph.replay(work)

    monkeypatch.setitem(backend.backends, "cpu", FakeGraph)
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda work: work())
    monkeypatch.setattr(plain_graph, "captured", captured)
    monkeypatch.setattr(module, "unavailable", lambda *_: None)


@pytest.mark.usefixtures("everything_runs")
@pytest.mark.parametrize(("batch_size", "read_batch"), [(1, 1), (3, 1)])
def test_generate_decodes_in_graphs_and_chooses_the_same_tokens(batch_size, read_batch, make_trial: MakeTrial) -> None:
    record = make_trial(batch_size, read_batch).run()
    assert record.not_available == {}
    assert {"lavakv_graph_to_full", "lavakv_graph_to_cut_graph"} <= record.ratios().keys()
    for name in ("lavakv_graph", "cut_graph"):
        assert record.decoding[name].num_replays >= NUM_TOKENS
    for name in ("lavakv", "full", "cut"):
        assert record.decoding[name].num_replays == 0
    assert record.same_tokens == {"lavakv_graph": 1.0}


@pytest.mark.usefixtures("everything_runs")
def test_a_graph_that_is_switched_off_is_not_reported(make_trial: MakeTrial, monkeypatch) -> None:
    monkeypatch.setenv("LAVAKV_GRAPH", "0")
    trial = make_trial()
    trial.decode("lavakv_graph")
    assert trial.record.decoding == {}
    assert trial.record.not_available["lavakv_graph"].startswith("decoded without a graph")


@pytest.mark.usefixtures("everything_runs")
def test_a_refusal_gives_its_reason_every_time(make_trial: MakeTrial, subject) -> None:
    def waits(*_: object) -> None:
        torch.ones(2).nonzero()

    handle = subject.model.model.layers[1].register_forward_hook(waits)
    try:
        for _ in range(2):  # lavakv warns once
            trial = make_trial()
            trial.decode("lavakv_graph")
            reason = trial.record.not_available["lavakv_graph"]
            assert reason.startswith("decoded without a graph: ")
            assert len(reason) > len("decoded without a graph: ")
    finally:
        handle.remove()
