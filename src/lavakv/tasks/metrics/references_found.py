"""References found in the text, RULER's metrics."""

from __future__ import annotations

import re
from collections.abc import Sequence


def all_references(prediction: str, answers: Sequence[str], _classes: Sequence[str]) -> float:
    """Share of the answers that are in the prediction, whatever the case (RULER `string_match_all`)."""
    return sum(_found(prediction, answers)) / len(answers)


def any_reference(prediction: str, answers: Sequence[str], _classes: Sequence[str]) -> float:
    """1 if any of the answers is in the prediction, whatever the case (RULER `string_match_part`)."""
    return float(any(_found(prediction, answers)))


def _found(prediction: str, answers: Sequence[str]) -> list[bool]:
    text = re.sub(r"[\x00-\x1f]", "\n", prediction.strip()).strip().lower()
    return [answer.lower() in text for answer in answers]
