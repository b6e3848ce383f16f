"""ROUGE-1, LAVa's other metric for the needle test."""

from __future__ import annotations

from functools import cache
from typing import Any

from lavakv.tasks.extras import needed


def rouge_1(prediction: str, answer: str) -> float:
    """F of rouge1 in Google's `rouge_score`, with stemming; held against the whole needle even a perfect answer loses.

    LAVa reports ten times this.
    """
    return float(_scorer().score(answer, prediction)["rouge1"].fmeasure)


@cache
def _scorer() -> Any:
    return needed("rouge_score.rouge_scorer").RougeScorer(["rouge1"], use_stemmer=True)
