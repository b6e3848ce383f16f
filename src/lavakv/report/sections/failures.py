"""Prompts on which eviction changed the score, with the gold answer and all answers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from lavakv.evaluation.record import Record
from lavakv.report.analysis import Analysis
from lavakv.report.configuration import Configuration
from lavakv.report.run import ExampleKey, example_key

CHANGED, POOR = 0.25, 0.1
KINDS = {
    "lost": "lost by eviction",
    "gained": "gained by eviction",
    "missed": "missed by the full cache as well",
}


class Given(NamedTuple):
    """One answer, and the configurations that gave it.

    Attributes:
        text: as decoded.
        score: 0 to 1, or None.
        configurations: that gave it.
    """

    text: str
    score: float | None
    configurations: list[Configuration]


class Failure(NamedTuple):
    """One prompt.

    Attributes:
        kind: a key of `KINDS`.
        change: difference of scores, 0 to 1.
        record: one of its records, for task, prompt and gold answers.
        given: answers, the full cache's first, then from best to worst.
    """

    kind: str
    change: float
    record: Record
    given: list[Given]


def failures(analysis: Analysis, limit: int) -> tuple[list[Failure], dict[str, int]]:
    """The prompts with the largest changes of each kind, alternating between tasks, and their number by kind.

    Args:
        analysis: of the run.
        limit: maximum number of each kind; a quarter of it for those that the full cache misses as well.
    """
    prompts: dict[tuple[ExampleKey, str], list[Record]] = {}
    for record in analysis.run.records:
        prompts.setdefault((example_key(record), record["mode"]), []).append(record)
    found = [failure for records in prompts.values() if (failure := _failure(analysis, records)) is not None]
    shown: list[Failure] = []
    for kind in KINDS:
        own = [failure for failure in found if failure.kind == kind]
        shown += _alternating(own, limit if kind != "missed" else -(-limit // 4))
    return shown, {kind: sum(failure.kind == kind for failure in found) for kind in KINDS}


def _failure(analysis: Analysis, records: Sequence[Record]) -> Failure | None:
    own = {Configuration.of(record): record for record in records}
    scores = {configuration: record["score"] for configuration, record in own.items() if record["score"] is not None}
    full = next((score for configuration, score in scores.items() if configuration.is_full), None)
    others = [score for configuration, score in scores.items() if not configuration.is_full]
    if full is None or not others:
        return None
    drop, gain = full - min(others), max(others) - full
    if drop >= CHANGED:
        kind, change = "lost", drop
    elif gain >= CHANGED:
        kind, change = "gained", gain
    elif full <= POOR:
        kind, change = "missed", full
    else:
        return None
    ordered = [own[configuration] for configuration in analysis.configurations.all if configuration in own]
    return Failure(kind, change, ordered[0], _given(ordered))


def _given(records: Sequence[Record]) -> list[Given]:
    answers: dict[str, Given] = {}
    for record in records:
        text = record["prediction"]
        answers.setdefault(text, Given(text, record["score"], [])).configurations.append(Configuration.of(record))
    first, *rest = answers.values()
    return [first, *sorted(rest, key=lambda given: -1.0 if given.score is None else -given.score)]


def _alternating(found: Sequence[Failure], limit: int) -> list[Failure]:
    """The largest change of every task, then the second largest of every task, and so on."""
    by_task: dict[str, list[Failure]] = {}
    for failure in sorted(found, key=lambda failure: -failure.change):
        by_task.setdefault(failure.record["task"], []).append(failure)
    rounds = zip_longest(*by_task.values())
    return [failure for turn in rounds for failure in turn if failure is not None][:limit]
