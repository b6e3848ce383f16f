"""The last word as a number, InfiniteBench's metric for running code."""

from __future__ import annotations

from lavakv.tasks.metrics.pieces import pieces


def last_integer(prediction: str, answer: str) -> float:
    """1 if the last word is a whole number and the right one (InfiniteBench `get_score_one_code_run`).

    Raises:
        ValueError: an answer that is no whole number.
    """
    right, words = int(answer), pieces(prediction, ("\n", ".", "`", "'", '"', ":"))
    try:
        return float(bool(words) and int(words[-1]) == right)
    except ValueError:
        return 0.0
