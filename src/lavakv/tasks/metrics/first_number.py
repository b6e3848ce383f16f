"""The first number, InfiniteBench's metric for finding extremes in a list."""

from __future__ import annotations

import re


def first_number(prediction: str, answer: str) -> float:
    """1 if the first number, signs aside, equals the answer's value (InfiniteBench `get_score_one_math_find`).

    The original stops with an error on a fraction where a whole number is right; here that is wrong, or right if it is
    the same number, "12.0".

    Raises:
        ValueError: an answer that is no number.
    """
    found = re.search(r"\d+\.\d+|\d+", prediction)
    right = float(answer)
    if found is None:
        return 0.0
    whole = found.group().isdecimal() and answer.lstrip("+-").isdecimal()
    return float(int(found.group()) == int(answer) if whole else float(found.group()) == right)
