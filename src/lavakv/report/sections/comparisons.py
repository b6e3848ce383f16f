"""Paired comparisons on the same prompts, with intervals.

The baseline against the other policies, overall and by task group; every policy against the full cache; and `lava`
against itself without layer or head budgets.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lavakv.evaluation.ablation import ABLATED, INSIGHT, KIND_NAMES, holds, task_kind
from lavakv.evaluation.bootstrap import Estimate
from lavakv.report.analysis import Analysis
from lavakv.report.configuration import Configuration
from lavakv.report.sections.score_table import Column, column_groups
from lavakv.report.sections.tables import by_group, group_columns


class PairedComparison(NamedTuple):
    """The baseline against another policy at the same budget, or a configuration against the full cache.

    Attributes:
        first: one configuration.
        second: the other one.
        difference: first minus second, mean over tasks, with its interval.
        won: prompts on which the first scored higher.
        tied: prompts on which both scored the same.
        lost: prompts on which the second scored higher.
    """

    first: Configuration
    second: Configuration
    difference: Estimate
    won: int
    tied: int
    lost: int


def against_baseline(analysis: Analysis) -> list[PairedComparison]:
    """The baseline policy against every other one at each budget."""
    found = []
    for configuration in analysis.configurations.all:
        baseline = analysis.baseline_of(configuration)
        if baseline is not None:
            found.append(_compared(analysis, baseline, configuration))
    return [comparison for comparison in found if comparison.difference.known]


def against_full(analysis: Analysis) -> list[PairedComparison]:
    """Every configuration against the full cache."""
    found = []
    for configuration in analysis.configurations.all:
        full = analysis.full_of(configuration)
        if full is not None and not configuration.is_full:
            found.append(_compared(analysis, configuration, full))
    return [comparison for comparison in found if comparison.difference.known]


def _compared(analysis: Analysis, first: Configuration, second: Configuration) -> PairedComparison:
    rows = analysis.row(first), analysis.row(second)
    gaps = np.concatenate([board.scores[rows[0]] - board.scores[rows[1]] for board in analysis.boards])
    gaps = gaps[np.isfinite(gaps)].round(6)
    difference = analysis.difference(first, second)
    assert difference is not None
    won, tied, lost = (int(prompts.sum()) for prompts in (gaps > 0, gaps == 0, gaps < 0))
    return PairedComparison(first, second, difference, won, tied, lost)


class Gain(NamedTuple):
    """The baseline against one other policy at the same budget.

    Attributes:
        configuration: the other one.
        cells: paired difference, baseline minus other, one a column.
    """

    configuration: Configuration
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
    """The baseline's gains by task group; None if there is only one group, or no other policy."""
    groups, rows = by_group(analysis.boards), []
    for configuration in analysis.configurations.all:
        baseline = analysis.baseline_of(configuration)
        if baseline is not None:
            found = [analysis.difference(baseline, configuration, own) for own in groups]
            rows.append(Gain(configuration, [estimate for estimate in found if estimate is not None]))
    return GainTable(group_columns(groups), rows) if rows and len(groups) > 1 else None


class BudgetGain(NamedTuple):
    """`lava` against itself without one kind of budget, on the tasks of one kind.

    Attributes:
        configuration: `lava` without it.
        kind: "generation" or "extraction".
        without: "layer budgets" or "head budgets".
        is_insight: whether the paper says that these budgets gain here.
        gain: paired difference.
    """

    configuration: Configuration
    kind: str
    without: str
    is_insight: bool
    gain: Estimate

    @property
    def holds(self) -> str:
        """One of "yes", "reversed" and "not settled"."""
        return holds(self.gain)


def ablation(analysis: Analysis) -> list[BudgetGain]:
    """The gains of layer and head budgets, by budget from small to large; empty if the run lacks these policies."""
    made = []
    for configuration in analysis.configurations.all:
        complete = analysis.unablated(configuration)
        if complete is None:
            continue
        for kind in KIND_NAMES:
            own = [board for board in analysis.boards if task_kind(board.group, board.task) == kind]
            gain = analysis.difference(complete, configuration, own)
            if gain is not None and gain.known:
                is_insight = (configuration.policy, kind) in INSIGHT
                made.append(BudgetGain(configuration, kind, ABLATED[configuration.policy], is_insight, gain))
    return made
