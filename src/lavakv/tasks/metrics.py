"""Shared by the benchmarks' official metrics: the type of a scorer, F1 of words, Chinese punctuation.

Each benchmark's own metrics are in its folder; all of them give 0 to 1.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

Scorer = Callable[[str, Sequence[str], Sequence[str]], float]
"""The score of a prediction, 0 to 1, from the prediction, an example's answers and its classes."""

# What LongBench and InfiniteBench both list, as code points. The odd holes are theirs: U+300A opens a title and stays,
# U+300B closes it and goes.
_CHINESE = [(0x2013, 0x2014), (0x2018, 0x2019), (0x201B, 0x201F), (0x2026, 0x2027), (0x3001, 0x3003), (0x300B, 0x3011)]
_CHINESE += [(0x3014, 0x301F), (0x3030, 0x3030), (0x303E, 0x303F), (0xFE4F, 0xFE4F), (0xFF01, 0xFF0D), (0xFF0F, 0xFF0F)]
_CHINESE += [(0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF64)]
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_PUNCTUATION = _ASCII_PUNCTUATION | dict.fromkeys(code for first, last in _CHINESE for code in range(first, last + 1))


def best_answer(metric: Callable[[str, str], float]) -> Scorer:
    """The highest value of a metric over all answers."""

    def score(prediction: str, answers: Sequence[str], _classes: Sequence[str]) -> float:
        return max(metric(prediction, answer) for answer in answers)

    return score


def first_answer(metric: Callable[[str, str], float]) -> Scorer:
    """A metric's value for the first answer."""

    def score(prediction: str, answers: Sequence[str], _classes: Sequence[str]) -> float:
        return metric(prediction, answers[0])

    return score


def overlap_f1(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """F1 of two bags of words: harmonic mean of precision and recall, repeated words counted as often as in both."""
    common = (Counter(predicted) & Counter(expected)).total()
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def f1(prediction: str, answer: str) -> float:
    """F1 of the words, in lower case, without ASCII punctuation and without a, an, the.

    As in SQuAD, LongBench (`qa_f1_score`) and InfiniteBench.
    """
    return overlap_f1(_words(prediction), _words(answer))


def _words(text: str) -> list[str]:
    plain = text.lower().translate(_ASCII_PUNCTUATION)  # first: "the." is an article as well
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def without_punctuation(text: str) -> str:
    """In lower case, without ASCII and Chinese punctuation, without white space."""
    return "".join(text.lower().translate(_PUNCTUATION).split())
