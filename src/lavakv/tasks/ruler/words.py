"""RULER's word lists."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from lavakv.tasks.extras import import_extra


@cache
def _words_of(kind: str) -> tuple[str, ...]:
    words = import_extra("wonderwords").RandomWord().filter(include_categories=[kind])
    return tuple(sorted(set(words)))


@cache
def all_words() -> Sequence[str]:
    """All nouns, adjectives and verbs, 8,166 of them in wonderwords 3.0.1."""
    return tuple(sorted({word for kind in ("noun", "adjective", "verb") for word in _words_of(kind)}))


def word_lists() -> tuple[Sequence[str], Sequence[str]]:
    """Adjectives and nouns, for keys made of one of each."""
    return _words_of("adjective"), _words_of("noun")
