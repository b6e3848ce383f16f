"""The form of a score table: rows of policies by budget, a column for each task or group."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import NamedTuple

from lavakv.evaluation.bootstrap import Estimate
from lavakv.report.analysis import Analysis
from lavakv.report.configuration import Configuration


class Row(NamedTuple):
    """Scores of a configuration.

    Attributes:
        configuration: scored.
        cells: an estimate a column, the average last.
        best: for each cell, whether it is the budget's best; always False for the only configuration of its budget.
    """

    configuration: Configuration
    cells: list[Estimate]
    best: list[bool]


class BudgetRows(NamedTuple):
    """Configurations with the same budget.

    Attributes:
        name: "128 per head"; "full cache".
        kept: mean kept fraction.
        rows: one a policy.
    """

    name: str
    kept: float
    rows: list[Row]


class Column(NamedTuple):
    """The heading of a column.

    Attributes:
        name: short.
        about: in full.
        group: benchmark or group that it belongs to, or "".
        num: examples.
    """

    name: str
    about: str
    group: str
    num: int


def column_groups(columns: list[Column]) -> list[tuple[str, int]]:
    """Name and width of each group of columns."""
    return [(name, len(list(own))) for name, own in groupby(column.group for column in columns)]


class ScoreTable(NamedTuple):
    """A table of scores; the average's column is not among `columns`.

    Attributes:
        title: of the table.
        columns: one for each cell of the rows but the last.
        budgets: the full cache first, then from small to large.
    """

    title: str
    columns: list[Column]
    budgets: list[BudgetRows]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Name and width of each group of columns."""
        return column_groups(self.columns)

    @property
    def decimals(self) -> int:
        """Two as in the paper; one if a column has fewer than 100 examples."""
        return 2 if min(column.num for column in self.columns) >= 100 else 1


def budget_rows(analysis: Analysis, cells: Callable[[Configuration], list[Estimate]]) -> list[BudgetRows]:
    """Rows of all configurations.

    Args:
        analysis: of the run.
        cells: a configuration's estimates, the average last.
    """
    configurations, made = analysis.configurations, []
    for (budget, mode), chosen in groupby(configurations.all, key=lambda c: (c.budget, c.mode)):
        own = list(chosen)
        kept = sum(configurations.kept[configuration] for configuration in own) / len(own)
        is_full = own[0].is_full
        name = configurations.name(own[0]) if is_full else configurations.budget_name(budget, mode)
        made.append(BudgetRows(name, kept, _rows([(configuration, cells(configuration)) for configuration in own])))
    return made


def _rows(found: list[tuple[Configuration, list[Estimate]]]) -> list[Row]:
    """Mark the highest of every column, and all that are equal to it."""
    numbers = [[round(cell.mean, 6) if cell.known else -1.0 for cell in cells] for _, cells in found]
    highest = [max(column) for column in zip(*numbers, strict=True)]
    return [
        Row(
            configuration,
            cells,
            [len(found) > 1 and number == top >= 0 for number, top in zip(own, highest, strict=True)],
        )
        for (configuration, cells), own in zip(found, numbers, strict=True)
    ]
