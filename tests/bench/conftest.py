"""A tiny random model, a listener that remembers, and a machine that is quickly measured."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lavakv.bench.subject import Subject
from tests.bench.quick import quick_machine


class Heard:
    """What a run said and did."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.pieces: list[str] = []
        self.events: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)
        self.events.append("say")

    def doing(self, what: str) -> None:
        self.pieces.append(what)
        self.events.append(what)


@pytest.fixture(scope="package", autouse=True)
def quick() -> Iterator[None]:
    with quick_machine():
        yield


@pytest.fixture(scope="session")
def subject() -> Subject:
    return Subject.shaped("tiny", "float32", "cpu", None)


@pytest.fixture
def heard() -> Heard:
    return Heard()
