"""ROUGE-L, as in LongBench."""

from __future__ import annotations

from functools import cache
from typing import Any

from lavakv.tasks.extras import needed


def rouge_l(prediction: str, answer: str) -> float:
    """`f` of rouge-l in the package `rouge` (LongBench `rouge_score`); a perfect text gets 0.999999995.

    Case-sensitive, no stemming, sentences end at ".", each word counts once. Where the package fails the score is 0, as
    in LongBench: on empty text, and where two sentences have so many words (1,000 together) that it recurses too deep.
    """
    try:
        scores = _rouge().get_scores(prediction, answer)
    except (ValueError, RecursionError):
        return 0.0
    return float(scores[0]["rouge-l"]["f"])


@cache
def _rouge() -> Any:
    return needed("rouge").Rouge(metrics=["rouge-l"])
