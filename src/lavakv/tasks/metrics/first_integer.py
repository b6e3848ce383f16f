"""The first run of digits, InfiniteBench's metric for pass keys and number strings."""

from __future__ import annotations

import re


def first_integer(prediction: str, answer: str) -> float:
    """1 if the first run of digits is the answer, as text: leading zeros count (InfiniteBench `first_int_match`)."""
    found = re.search("[0-9]+", prediction)
    return float(found is not None and found.group() == answer)
