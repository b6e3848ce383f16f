"""A letter or a function's name, InfiniteBench's metric for finding a bug."""

from __future__ import annotations

from collections.abc import Sequence

_PREFIXES = ("answer is:", "is:", "answer:", "correct option is:")
_SEPARATORS = ("\n", "`", "'", '"', "-", "*", "Option", "option")


def bug_choice(prediction: str, answers: Sequence[str], _classes: Sequence[str]) -> float:
    """1 if the function with the bug is named (InfiniteBench `get_score_one_code_debug`).

    It must come at the start as "C." or "C:", or as letter or name right after the first of "answer is:", "is:",
    "answer:" in the text. A lone "C" gets 0.

    Args:
        prediction: any text.
        answers: the function's name and its letter.
    """
    text, (function, letter) = prediction.strip(), answers
    if text[:2] in (f"{letter}.", f"{letter}:"):
        return 1.0
    for separator in _SEPARATORS:
        text = text.replace(separator, " ")
    while "  " in text:
        text = text.replace("  ", " ")
    for prefix in _PREFIXES:
        _, found, rest = text.partition(prefix)
        if found:
            return float(bool(rest) and rest[1:].startswith((letter, function)))
    return 0.0
