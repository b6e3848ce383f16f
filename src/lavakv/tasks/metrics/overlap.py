"""F1 of two bags of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def overlap_f1(predicted: Sequence[str], right: Sequence[str]) -> float:
    """Harmonic mean of the shares of either that the other has; repeated words count as often as in both."""
    common = (Counter(predicted) & Counter(right)).total()
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(right)
    return 2 * precision * recall / (precision + recall)
