"""Prompts on which eviction changed the answer, with gold and all answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from lavakv.report.analysis import Analysis
from lavakv.report.contender import Contender
from lavakv.report.run import example_key

CHANGED, POOR = 0.25, 0.1
KINDS = {
    "lost": "lost by eviction",
    "gained": "gained by eviction",
    "missed": "missed by the full cache as well",
}


class Given(NamedTuple):
    """One answer, and everyone who gave it.

    Attributes:
        text: as decoded.
        score: 0 to 1, or None.
        contenders: whose it is.
    """

    text: str
    score: float | None
    contenders: list[Contender]


class Failure(NamedTuple):
    """One prompt.

    Attributes:
        kind: a key of `KINDS`.
        change: how far scores are apart, 0 to 1.
        record: any of its records: task, prompt's head and tail, gold answers.
        given: answers, the full cache's first, then from best to worst.
    """

    kind: str
    change: float
    record: Mapping[str, Any]
    given: list[Given]


def failures(analysis: Analysis, limit: int) -> tuple[list[Failure], dict[str, int]]:
    """The most telling prompts of each kind, tasks taking turns, and how many there are of each kind.

    Args:
        analysis: of the run.
        limit: most to show of each kind; of those the full cache misses as well, a quarter.
    """
    prompts: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for record in analysis.run.records:
        prompts.setdefault((*example_key(record), record["mode"]), []).append(record)
    found = [failure for records in prompts.values() if (failure := _judged(analysis, records)) is not None]
    shown: list[Failure] = []
    for kind in KINDS:
        own = [failure for failure in found if failure.kind == kind]
        shown += _taking_turns(own, limit if kind != "missed" else -(-limit // 4))
    return shown, {kind: sum(failure.kind == kind for failure in found) for kind in KINDS}


def _judged(analysis: Analysis, records: Sequence[Mapping[str, Any]]) -> Failure | None:
    own = {Contender.of(record): record for record in records}
    scores = {contender: record["score"] for contender, record in own.items() if record["score"] is not None}
    full = next((score for contender, score in scores.items() if contender.is_full), None)
    others = [score for contender, score in scores.items() if not contender.is_full]
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
    ordered = [own[contender] for contender in analysis.field.contenders if contender in own]
    return Failure(kind, change, ordered[0], _given(ordered))


def _given(records: Sequence[Mapping[str, Any]]) -> list[Given]:
    answers: dict[str, Given] = {}
    for record in records:
        text = record["prediction"]
        answers.setdefault(text, Given(text, record["score"], [])).contenders.append(Contender.of(record))
    first, *rest = answers.values()
    return [first, *sorted(rest, key=lambda given: -1.0 if given.score is None else -given.score)]


def _taking_turns(found: Sequence[Failure], limit: int) -> list[Failure]:
    """The largest change of every task, then the second largest of every task, and so on."""
    by_task: dict[str, list[Failure]] = {}
    for failure in sorted(found, key=lambda failure: -failure.change):
        by_task.setdefault(failure.record["task"], []).append(failure)
    rounds = zip_longest(*by_task.values())
    return [failure for turn in rounds for failure in turn if failure is not None][:limit]
