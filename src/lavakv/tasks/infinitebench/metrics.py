"""InfiniteBench's official metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from lavakv.tasks.extras import import_extra
from lavakv.tasks.metrics import overlap_f1, without_punctuation

_PUNCTUATION = ("\n", ":", '"', "'", ".", ",", "?", "!", "{", "}")
_CHOICE_PREFIXES = ("answer is:", "answer:", "answer is", "option is")
_CHOICE_SEPARATORS = ("\n", '"', "'", ".", ",", "?", "!", "{", "}")
_BUG_PREFIXES = ("answer is:", "is:", "answer:", "correct option is:")
_BUG_SEPARATORS = ("\n", "`", "'", '"', "-", "*", "Option", "option")


def first_integer(prediction: str, answer: str) -> float:
    """1 if the first run of digits is the answer, as text: leading zeros count (`first_int_match`)."""
    found = re.search("[0-9]+", prediction)
    return float(found is not None and found.group() == answer)


def first_number(prediction: str, answer: str) -> float:
    """1 if the first number, signs aside, equals the answer's value (`get_score_one_math_find`).

    The original stops with an error on a fraction where a whole number is right; here that is wrong, or right if it is
    the same number, "12.0".

    Raises:
        ValueError: an answer that is no number.
    """
    found = re.search(r"\d+\.\d+|\d+", prediction)
    right = float(answer)
    if found is None:
        return 0.0
    whole = found.group().isdecimal() and answer.lstrip("+-").isdecimal()
    return float(int(found.group()) == int(answer) if whole else float(found.group()) == right)


def last_integer(prediction: str, answer: str) -> float:
    """1 if the last word is a whole number and the right one (`get_score_one_code_run`).

    Raises:
        ValueError: an answer that is no whole number.
    """
    right, words = int(answer), _words(prediction, ("\n", ".", "`", "'", '"', ":"))
    try:
        return float(bool(words) and int(words[-1]) == right)
    except ValueError:
        return 0.0


def value_prefix(prediction: str, answers: Sequence[str], _classes: Sequence[str]) -> float:
    """Number of leading values that are right over the length of the list (`get_score_one_math_calc`).

    Args:
        prediction: all its runs of digits are taken as values, signs aside.
        answers: the right values in order, one a string.

    Raises:
        ValueError: an answer that is no whole number.
    """
    values = [int(run) for run in re.findall("[0-9]+", prediction)]
    right = 0
    for value, answer in zip(values, answers, strict=False):
        if value != int(answer):
            break
        right += 1
    return right / len(answers)


def word_among(prediction: str, answer: str) -> float:
    """1 if the answer is one of the prediction's words (`get_score_one_kv_retrieval`).

    There the answer must be text; in today's data it is a list of one, which the original never finds.
    """
    return float(answer in _words(prediction))


def speaker(prediction: str, answer: str) -> float:
    """1 if the name is one of the words in upper case (`get_score_one_longdialogue_qa_eng`).

    The name itself is compared as it stands: one with a space, or in lower case, is never found.
    """
    return float(answer in [word.upper() for word in _words(prediction)])


def f1_characters(prediction: str, answer: str) -> float:
    """F1 of the characters of both texts without punctuation and white space (`qa_f1_score_zh`)."""
    return overlap_f1(without_punctuation(prediction), without_punctuation(answer))


def rouge_lsum(prediction: str, answers: Sequence[str], _classes: Sequence[str]) -> float:
    """F of rougeLsum in Google's `rouge_score`, without stemming; the highest over all answers.

    InfiniteBench's `get_score_one_longbook_sum_eng` reaches it through the package `evaluate`. Sentences end at
    newlines, which nobody adds.
    """
    return float(_rouge_scorer().score_multi(list(answers), prediction)["rougeLsum"].fmeasure)


def choice(prediction: str, answers: Sequence[str], _classes: Sequence[str]) -> float:
    """1 if the chosen option is right (`get_score_one_longbook_choice_eng`).

    The first of these decides: the first character if it is A to D, so that "Definitely A" chooses D; the whole text,
    if it is the option; what follows "answer is:" and the like; the first word made of A to D.

    Args:
        prediction: any text.
        answers: the right option's text and its letter.
    """
    text = prediction.strip()
    if not text:
        return 0.0
    if text[0] in "ABCD":
        return float(text[0] in answers)
    return float(text in answers or _is_chosen_later(text, answers))


def _is_chosen_later(text: str, answers: Sequence[str]) -> bool:
    text = _spaced(text, _CHOICE_SEPARATORS)
    for prefix in _CHOICE_PREFIXES:
        _, found, rest = text.partition(prefix)
        if found:
            return any(rest[1:].startswith(answer) for answer in answers) if rest else False
    return next((word in answers for word in text.split() if word in "ABCD"), False)


def bug_choice(prediction: str, answers: Sequence[str], _classes: Sequence[str]) -> float:
    """1 if the function with the bug is named (`get_score_one_code_debug`).

    It must come at the start as "C." or "C:", or as letter or name right after the first of "answer is:", "is:",
    "answer:" in the text. A lone "C" gets 0.

    Args:
        prediction: any text.
        answers: the function's name and its letter.
    """
    text, (function, letter) = prediction.strip(), answers
    if text[:2] in (f"{letter}.", f"{letter}:"):
        return 1.0
    text = _spaced(text, _BUG_SEPARATORS)
    for prefix in _BUG_PREFIXES:
        _, found, rest = text.partition(prefix)
        if found:
            return float(bool(rest) and rest[1:].startswith((letter, function)))
    return 0.0


def _words(text: str, separators: Iterable[str] = _PUNCTUATION) -> list[str]:
    """Words left when separators become spaces."""
    for separator in separators:
        text = text.replace(separator, " ")
    return text.split()


def _spaced(text: str, separators: Iterable[str]) -> str:
    """Separators as spaces, no two of them in a row."""
    for separator in separators:
        text = text.replace(separator, " ")
    while "  " in text:
        text = text.replace("  ", " ")
    return text


@cache
def _rouge_scorer() -> Any:
    return import_extra("rouge_score.rouge_scorer").RougeScorer(["rougeLsum"], use_stemmer=False)
