"""Filters of the templates that put rows of the same budget together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from lavakv.report.contender import Contender
from lavakv.report.sections.blocks import Column
from lavakv.report.sections.duels import Duel
from lavakv.report.sections.shares import ShareMap

Size = tuple[str, str]


def groupby_contender(rows: Sequence[Any]) -> list[tuple[Size, list[Any]]]:
    """Rows with a contender, by its budget and mode."""
    found = groupby(rows, key=lambda row: (row.contender.budget, row.contender.mode))
    return [(size, list(own)) for size, own in found]


def groupby_size(duels: Sequence[Duel]) -> list[tuple[Size, list[tuple[int, Duel]]]]:
    """Duels by budget and mode, each with its index."""
    found = groupby(enumerate(duels), key=lambda item: (item[1].first.budget, item[1].first.mode))
    return [(size, list(own)) for size, own in found]


def heading(column: Column, columns: Sequence[Column]) -> str:
    """A column's name where there is only one line for it: with what it belongs to if the name alone is not its own."""
    shared = [other.name for other in columns].count(column.name) > 1
    return f"{column.group}: {column.name}" if shared else column.name


def highest_share(maps: Sequence[ShareMap]) -> float:
    """The end of the scale that some maps share."""
    return max(float(np.nanmax(one.shares)) for one in maps)


def by_policy(contenders: Sequence[Contender]) -> list[tuple[str, list[str]]]:
    """Policies, each with its budgets, in order."""
    found: dict[str, list[str]] = {}
    for contender in contenders:
        found.setdefault(contender.policy, []).append(contender.budget)
    return list(found.items())
