"""ROUGE-Lsum, InfiniteBench's metric for summaries of books."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from lavakv.tasks.extras import needed


def rouge_lsum(prediction: str, answers: Sequence[str], _classes: Sequence[str]) -> float:
    """F of rougeLsum in Google's `rouge_score`, without stemming; the best answer counts.

    InfiniteBench's `get_score_one_longbook_sum_eng` reaches it through the package `evaluate`. Sentences end at
    newlines, which nobody adds.
    """
    return float(_scorer().score_multi(list(answers), prediction)["rougeLsum"].fmeasure)


@cache
def _scorer() -> Any:
    return needed("rouge_score.rouge_scorer").RougeScorer(["rougeLsum"], use_stemmer=False)
