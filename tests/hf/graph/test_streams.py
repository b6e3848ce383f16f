"""A step that is replayed on another stream than the last one waits for that one before it writes anything."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import lavakv
from lavakv.hf.contract import cache_argument
from lavakv.hf.graph.backend import CudaGraph, backends
from lavakv.hf.graph.captured import CapturedStep
from tests.hf import zoo
from tests.hf.graph.compare import model_of
from tests.hf.graph.fake import FakeGraph
from tests.hf.helpers import lava_cache


class _Stream:
    def __init__(self) -> None:
        self.waited_for: list[_Stream] = []

    def wait_stream(self, other: _Stream) -> None:
        self.waited_for.append(other)


class _Graph:
    def replay(self) -> None:
        pass


def test_only_another_stream_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = _Stream(), _Stream()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", _Graph)
    graph = CudaGraph(torch.device("cuda"))
    for stream in (first, first, second, second, first):
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _device, now=stream: now)
        graph.wait()
        graph.replay()
    assert (first.waited_for, second.waited_for) == ([second], [first])


def test_inputs_are_written_after_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Noting(FakeGraph):
        def wait(self) -> None:
            done.append("wait")

        def replay(self) -> None:
            done.append("replay")
            super().replay()

    load = CapturedStep._load

    def noted(self: CapturedStep, *args: Any) -> None:
        done.append("load")
        load(self, *args)

    model = model_of()
    cache, call = lava_cache(model), lavakv.graphed(model)
    monkeypatch.setitem(backends, "cpu", Noting)
    with torch.no_grad():
        model(input_ids=zoo.prompt(40), **cache_argument(model, cache))
        call(input_ids=torch.tensor([[5]]), **cache_argument(model, cache))
        monkeypatch.setattr(CapturedStep, "_load", noted)
        done.clear()
        call(input_ids=torch.tensor([[6]]), **cache_argument(model, cache))
    assert done == ["wait", "load", "replay"]
