"""Cutting a prediction into words the way InfiniteBench does."""

from __future__ import annotations

from collections.abc import Iterable

PUNCTUATION = ("\n", ":", '"', "'", ".", ",", "?", "!", "{", "}")


def pieces(text: str, separators: Iterable[str] = PUNCTUATION) -> list[str]:
    """Words left when separators become spaces."""
    for separator in separators:
        text = text.replace(separator, " ")
    return text.split()
