"""Words of the answer found, the needle test's metric in LAVa's grids."""

from __future__ import annotations


def words_found(prediction: str, answer: str) -> float:
    """Share of the answer's distinct words that are among the prediction's (lower case, full stops as spaces)."""
    wanted = _words(answer)
    return len(wanted & _words(prediction)) / len(wanted)


def _words(text: str) -> set[str]:
    return set(text.lower().replace(".", " ").split())
