"""Edit similarity of a line of code, as in LongBench."""

from __future__ import annotations

from difflib import SequenceMatcher


def code_similarity(prediction: str, answer: str) -> float:
    """How alike the first line of code and the answer are, in whole percent (LongBench `code_sim_score`).

    The line is the first without a backtick, `#` or `//`, after leading newlines; an empty line later on is a line, and
    so is the indentation part of it. Without such a line the prediction is empty.

    The ratio is that of fuzzywuzzy without python-Levenshtein; it is worked out here because an installed
    python-Levenshtein would change it.
    """
    lines = prediction.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    if line == answer:
        return 1.0
    if not line or not answer:
        return 0.0
    return round(100 * SequenceMatcher(None, line, answer).ratio()) / 100
