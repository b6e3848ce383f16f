"""Filters of the templates: rows of one budget together, steps of the heat scale, text that is safe in Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from lavakv.report.configuration import Configuration
from lavakv.report.sections.comparisons import PairedComparison
from lavakv.report.sections.score_table import Column
from lavakv.report.sections.shares import ShareMap

Budget = tuple[str, str]


def by_budget(rows: Sequence[Any]) -> list[tuple[Budget, list[Any]]]:
    """Group rows that have a configuration by its budget and mode."""
    found = groupby(rows, key=lambda row: (row.configuration.budget, row.configuration.mode))
    return [(budget, list(own)) for budget, own in found]


def comparisons_by_budget(
    comparisons: Sequence[PairedComparison],
) -> list[tuple[Budget, list[tuple[int, PairedComparison]]]]:
    """Group comparisons by budget and mode, each with its index."""
    found = groupby(enumerate(comparisons), key=lambda item: (item[1].first.budget, item[1].first.mode))
    return [(budget, list(own)) for budget, own in found]


def heading(column: Column, columns: Sequence[Column]) -> str:
    """A column's name on a single line, with its benchmark if several columns have that name."""
    shared = [other.name for other in columns].count(column.name) > 1
    return f"{column.group}: {column.name}" if shared else column.name


def highest_share(maps: Sequence[ShareMap]) -> float:
    """The end of the colour scale that some maps share."""
    return max(float(np.nanmax(one.shares)) for one in maps)


def by_policy(configurations: Sequence[Configuration]) -> list[tuple[str, list[str]]]:
    """Policies with their budgets, in order."""
    found: dict[str, list[str]] = {}
    for configuration in configurations:
        found.setdefault(configuration.policy, []).append(configuration.budget)
    return list(found.items())


NUM_STEPS = 10
MIN_MARK_LENGTH = 3


def heat(value: float, highest: float = 1.0) -> int:
    """Step of the colour scale, 0 to 10; anything above zero is at least 1."""
    if math.isnan(value) or highest <= 0 or value <= 0:
        return 0
    return min(max(round(NUM_STEPS * value / highest), 1), NUM_STEPS)


def marked(text: str, answers: Sequence[Any]) -> list[tuple[str, bool]]:
    """A text as pairs of substring and whether it is one of the gold answers, letter case ignored."""
    words = sorted((str(answer).strip() for answer in answers), key=len, reverse=True)
    chosen = [re.escape(word) for word in words if len(word) >= MIN_MARK_LENGTH]
    if not chosen:
        return [(text, False)]
    substrings = re.split(f"({'|'.join(chosen)})", text, flags=re.IGNORECASE)
    return [(own, index % 2 == 1) for index, own in enumerate(substrings) if own]


def fence(text: str) -> str:
    """A Markdown fence that no line of a text closes."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(3, longest + 1)


def cell(text: Any) -> str:
    """Text for a Markdown line or table cell: on one line, everything escaped that Markdown or HTML would interpret."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", flat)
