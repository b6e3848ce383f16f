"""The shape of a score table: a block of rows a budget, a row a policy, a column a task or group."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import NamedTuple

from lavakv.evaluation.bootstrap import Estimate
from lavakv.report.analysis import Analysis
from lavakv.report.contender import Contender


class Row(NamedTuple):
    """One contender's scores.

    Attributes:
        contender: whose.
        cells: an estimate a column, the average last.
        best: for each cell, is it the block's best? Always False in a block of one.
    """

    contender: Contender
    cells: list[Estimate]
    best: list[bool]


class Block(NamedTuple):
    """Contenders with the same budget.

    Attributes:
        name: "128 a head"; "full cache".
        kept: mean kept fraction.
        rows: one a policy.
    """

    name: str
    kept: float
    rows: list[Row]


class Column(NamedTuple):
    """What a column shows.

    Attributes:
        name: short.
        about: in full.
        group: what it belongs to, or "".
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
        columns: one a cell of the rows but the last.
        blocks: the full cache first, then budgets from small to large.
    """

    title: str
    columns: list[Column]
    blocks: list[Block]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Name and width of each group of columns."""
        return column_groups(self.columns)

    @property
    def decimals(self) -> int:
        """Two as in the paper, one where so few examples cannot carry two."""
        return 2 if min(column.num for column in self.columns) >= 100 else 1


def blocks(analysis: Analysis, cells: Callable[[Contender], list[Estimate]]) -> list[Block]:
    """Rows of all contenders.

    Args:
        analysis: of the run.
        cells: a contender's estimates, the average last.
    """
    field, made = analysis.field, []
    for (budget, mode), chosen in groupby(field.contenders, key=lambda c: (c.budget, c.mode)):
        contenders = list(chosen)
        kept = sum(field.kept[contender] for contender in contenders) / len(contenders)
        name = field.name(contenders[0]) if contenders[0].is_full else field.budget_name(budget, mode)
        made.append(Block(name, kept, _rows([(contender, cells(contender)) for contender in contenders])))
    return made


def _rows(found: list[tuple[Contender, list[Estimate]]]) -> list[Row]:
    """Mark the highest of every column; equal ones all."""
    numbers = [[round(cell.mean, 6) if cell.known else -1.0 for cell in cells] for _, cells in found]
    highest = [max(column) for column in zip(*numbers, strict=True)]
    return [
        Row(
            contender,
            cells,
            [len(found) > 1 and number == top >= 0 for number, top in zip(own, highest, strict=True)],
        )
        for (contender, cells), own in zip(found, numbers, strict=True)
    ]
