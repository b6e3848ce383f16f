"""Decode steps on the CPU are captured by a graph that records and repeats operators."""

from __future__ import annotations

import pytest

from lavakv.hf.graph import backend, refusal
from tests.hf.graph.fake import FakeGraph


@pytest.fixture(autouse=True)
def _fake_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backend.backends, "cpu", FakeGraph)
    monkeypatch.setattr(refusal, "_warned", set())
