"""How far a list of values is right, InfiniteBench's metric for long sums."""

from __future__ import annotations

import re
from collections.abc import Sequence


def value_prefix(prediction: str, answers: Sequence[str], _classes: Sequence[str]) -> float:
    """Length of the right beginning over the length of the list (InfiniteBench `get_score_one_math_calc`).

    Args:
        prediction: all its runs of digits are taken as values, signs aside.
        answers: the right values in order, one a string.

    Raises:
        ValueError: an answer that is no whole number.
    """
    values = [int(run) for run in re.findall("[0-9]+", prediction)]
    right = 0
    for value, answer in zip(values, answers, strict=False):
        if value != int(answer):
            break
        right += 1
    return right / len(answers)
