"""A word among others, InfiniteBench's metric for key-value retrieval."""

from __future__ import annotations

from lavakv.tasks.metrics.pieces import pieces


def word_among(prediction: str, answer: str) -> float:
    """1 if the answer is one of the prediction's words (InfiniteBench `get_score_one_kv_retrieval`).

    There the answer must be text; in today's data it is a list of one, which the original never finds.
    """
    return float(answer in pieces(prediction))
