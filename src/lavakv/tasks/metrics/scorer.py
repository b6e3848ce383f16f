"""What a task needs of a metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Scorer = Callable[[str, Sequence[str], Sequence[str]], float]
"""How right a prediction is, 0 to 1, from the prediction, an example's answers and its classes."""


def best_answer(metric: Callable[[str, str], float]) -> Scorer:
    """The best of a metric's values over all answers."""

    def score(prediction: str, answers: Sequence[str], _classes: Sequence[str]) -> float:
        return max(metric(prediction, answer) for answer in answers)

    return score


def first_answer(metric: Callable[[str, str], float]) -> Scorer:
    """A metric's value for the first answer."""

    def score(prediction: str, answers: Sequence[str], _classes: Sequence[str]) -> float:
        return metric(prediction, answers[0])

    return score
