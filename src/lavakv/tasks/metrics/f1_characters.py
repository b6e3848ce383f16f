"""F1 of characters, as in InfiniteBench's Chinese questions."""

from __future__ import annotations

from lavakv.tasks.metrics.chinese import bare
from lavakv.tasks.metrics.overlap import overlap_f1


def f1_characters(prediction: str, answer: str) -> float:
    """F1 of the characters of both texts made bare (InfiniteBench `qa_f1_score_zh`)."""
    return overlap_f1(bare(prediction), bare(answer))
