"""What the baseline gains over every other policy, task group by task group."""

from __future__ import annotations

from typing import NamedTuple

from lavakv.evaluation.bootstrap import Estimate
from lavakv.report.analysis import Analysis
from lavakv.report.contender import Contender
from lavakv.report.sections.blocks import Column, column_groups
from lavakv.report.sections.tables import by_group, group_columns


class Gain(NamedTuple):
    """The baseline against one other policy at the same budget.

    Attributes:
        contender: the other one.
        cells: paired difference, baseline minus other, one a column.
    """

    contender: Contender
    cells: list[Estimate]


class GainTable(NamedTuple):
    """Differences by task group.

    Attributes:
        columns: task groups.
        rows: by budget from small to large.
    """

    columns: list[Column]
    rows: list[Gain]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Name and width of each group of columns."""
        return column_groups(self.columns)


def gain_table(analysis: Analysis) -> GainTable | None:
    """All task groups; None where there is but one, or nobody to compare with."""
    parts, rows = by_group(analysis.boards), []
    for contender in analysis.field.contenders:
        rival = analysis.rival_of(contender)
        if rival is not None:
            found = [analysis.difference(rival, contender, own) for own in parts]
            rows.append(Gain(contender, [estimate for estimate in found if estimate is not None]))
    return GainTable(group_columns(parts), rows) if rows and len(parts) > 1 else None
