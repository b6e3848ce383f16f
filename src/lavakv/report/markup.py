"""Filters of the templates: steps of the heat scale, gold answers marked in text, fences."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

STEPS = 10
SHORTEST_MARK = 3


def heat(value: float, highest: float = 1.0) -> int:
    """Step of the heat scale, 0 to 10; anything above zero is at least 1."""
    if math.isnan(value) or highest <= 0 or value <= 0:
        return 0
    return min(max(round(STEPS * value / highest), 1), STEPS)


def pieces(text: str, answers: Sequence[Any]) -> list[tuple[str, bool]]:
    """Text cut where one of the gold answers stands in it, letter case ignored: piece, and is it gold?"""
    words = sorted((str(answer).strip() for answer in answers), key=len, reverse=True)
    chosen = [re.escape(word) for word in words if len(word) >= SHORTEST_MARK]
    if not chosen:
        return [(text, False)]
    parts = re.split(f"({'|'.join(chosen)})", text, flags=re.IGNORECASE)
    return [(part, index % 2 == 1) for index, part in enumerate(parts) if part]


def fence(text: str) -> str:
    """Backticks that no line of a text can close."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(3, longest + 1)


def cell(text: Any) -> str:
    """Text inside a Markdown table or line: one line, nothing that Markdown or HTML would read."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", flat)
