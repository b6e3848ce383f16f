"""A letter out of four, InfiniteBench's metric for questions on books."""

from __future__ import annotations

from collections.abc import Sequence

_PREFIXES = ("answer is:", "answer:", "answer is", "option is")
_SEPARATORS = ("\n", '"', "'", ".", ",", "?", "!", "{", "}")


def choice(prediction: str, answers: Sequence[str], _classes: Sequence[str]) -> float:
    """1 if the chosen option is right (InfiniteBench `get_score_one_longbook_choice_eng`).

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
    return float(text in answers or _chosen_later(text, answers))


def _chosen_later(text: str, answers: Sequence[str]) -> bool:
    for separator in _SEPARATORS:
        text = text.replace(separator, " ")
    while "  " in text:
        text = text.replace("  ", " ")
    for prefix in _PREFIXES:
        _, found, rest = text.partition(prefix)
        if found:
            return any(rest[1:].startswith(answer) for answer in answers) if rest else False
    return next((word in answers for word in text.split() if word in "ABCD"), False)
