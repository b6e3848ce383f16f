"""LongBench's official metrics."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from functools import cache
from typing import Any

from lavakv.tasks.extras import import_extra
from lavakv.tasks.metrics import Scorer, overlap_f1, without_punctuation


def of_first_line(scorer: Scorer) -> Scorer:
    """Score only the first line after leading newlines, as LongBench does for tasks with examples in the prompt."""

    def score(prediction: str, answers: Sequence[str], classes: Sequence[str]) -> float:
        return scorer(prediction.lstrip("\n").split("\n")[0], answers, classes)

    return score


def f1_zh(prediction: str, answer: str) -> float:
    """F1 of the words that jieba finds, each without punctuation, empty ones dropped (`qa_f1_zh_score`)."""
    found, expected = (
        [word for word in map(without_punctuation, chinese_words(text)) if word] for text in (prediction, answer)
    )
    return overlap_f1(found, expected)


def rouge_l(prediction: str, answer: str) -> float:
    """`f` of rouge-l in the package `rouge` (`rouge_score`); a perfect text gets 0.999999995.

    Case-sensitive, no stemming, sentences end at ".", each word counts once. Where the package fails the score is 0, as
    in LongBench: on empty text, and where two sentences have so many words (1,000 together) that it recurses too deep.
    """
    try:
        with _recursion_limit(1000):
            scores = _rouge().get_scores(prediction, answer)
    except (ValueError, RecursionError):
        return 0.0
    return float(scores[0]["rouge-l"]["f"])


@contextmanager
def _recursion_limit(limit: int) -> Iterator[None]:
    """Python's own limit, as LongBench has it: compiling a model raises it, and the same text would score otherwise."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def rouge_l_zh(prediction: str, answer: str) -> float:
    """ROUGE-L of the words that jieba finds, joined by spaces (`rouge_zh_score`)."""
    return rouge_l(" ".join(chinese_words(prediction)), " ".join(chinese_words(answer)))


def classification(prediction: str, answers: Sequence[str], classes: Sequence[str]) -> float:
    """One over the number of classes that the prediction names, if the right one is among them, else 0.

    Classes whose name is contained in the right one's do not count. LongBench's `classification_score` removes them
    from the list that it walks over and so may leave one in; where no class contains another, as in trec and lsht,
    both are the same.
    """
    return max(_class_share(prediction, answer, classes) for answer in answers)


def _class_share(prediction: str, answer: str, classes: Sequence[str]) -> float:
    named = [name for name in classes if name in prediction and (name == answer or name not in answer)]
    return 1 / len(named) if answer in named else 0.0


def numbers_right(prediction: str, answer: str) -> float:
    """Share of all whole numbers in the prediction that equal the answer's, as text.

    Args:
        prediction: any text; without a number it gets 0.
        answer: "8" (`count_score`), "Paragraph 15" (`retrieval_score`) or the same in Chinese (`retrieval_zh_score`).

    Raises:
        ValueError: no number in the answer.
    """
    right = re.search(r"\d+", answer)
    if right is None:
        raise ValueError(f"no number in the answer {answer!r}")
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(right.group()) / len(numbers) if numbers else 0.0


def code_similarity(prediction: str, answer: str) -> float:
    """Edit similarity of the first line of code and the answer, in whole percent (`code_sim_score`).

    The line is the first without a backtick, `#` or `//`, after leading newlines; an empty line later on is a line, and
    its indentation belongs to it. Without such a line the prediction is empty.

    The ratio is that of fuzzywuzzy without python-Levenshtein; it is computed here because an installed
    python-Levenshtein would change it.
    """
    lines = prediction.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    if line == answer:
        return 1.0
    if not line or not answer:
        return 0.0
    return round(100 * SequenceMatcher(None, line, answer).ratio()) / 100


def chinese_words(text: str) -> list[str]:
    """The words that jieba splits a text into, punctuation and spaces included."""
    return list(_jieba().cut(text, cut_all=False))


@cache
def _rouge() -> Any:
    return import_extra("rouge").Rouge(metrics=["rouge-l"])


@cache
def _jieba() -> Any:
    jieba = import_extra("jieba")
    jieba.setLogLevel(logging.WARNING)  # it reports on loading its dictionary
    return jieba
