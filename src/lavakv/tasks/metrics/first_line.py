"""Cutting an answer to its first line."""

from __future__ import annotations

from collections.abc import Sequence

from lavakv.tasks.metrics.scorer import Scorer


def of_first_line(scorer: Scorer) -> Scorer:
    """Score only the first line after leading newlines, as LongBench does for tasks with examples in the prompt."""

    def score(prediction: str, answers: Sequence[str], classes: Sequence[str]) -> float:
        return scorer(prediction.lstrip("\n").split("\n")[0], answers, classes)

    return score
