"""RULER's word lists."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from lavakv.tasks.extras import needed


@cache
def _of_kind(kind: str) -> tuple[str, ...]:
    words = needed("wonderwords").RandomWord().filter(include_categories=[kind])
    return tuple(sorted(set(words)))


@cache
def all_words() -> Sequence[str]:
    """All nouns, adjectives and verbs, 8,166 of them in wonderwords 3.0.1."""
    return tuple(sorted({word for kind in ("noun", "adjective", "verb") for word in _of_kind(kind)}))


def word_lists() -> tuple[Sequence[str], Sequence[str]]:
    """Adjectives and nouns, for keys made of one of each."""
    return _of_kind("adjective"), _of_kind("noun")
