"""Score against kept fraction: all tasks, then each group of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lavakv.evaluation.bootstrap import Estimate
from lavakv.report.analysis import Analysis
from lavakv.report.board import TaskBoard
from lavakv.report.sections.tables import by_group


class Point(NamedTuple):
    """One budget of one policy.

    Attributes:
        kept: mean kept fraction over all tasks.
        budget: as in the records.
        score: with its interval.
    """

    kept: float
    budget: str
    score: Estimate


class Line(NamedTuple):
    """One policy, in one mode.

    Attributes:
        name: policy, with the mode if there are several.
        colour: index of its colour, the same in the whole report.
        points: from small budgets to large.
    """

    name: str
    colour: int
    points: list[Point]


class Curve(NamedTuple):
    """One chart.

    Attributes:
        title: group of tasks.
        about: its tasks.
        num: examples.
        full: the full cache's score in each mode.
        lines: the policies.
    """

    title: str
    about: str
    num: int
    full: list[Estimate]
    lines: list[Line]


def curves(analysis: Analysis) -> list[Curve]:
    """The average over all tasks; then each group of tasks, if there are several."""
    groups = by_group(analysis.boards)
    made = [_curve(analysis, "All tasks", analysis.boards)]
    if len(groups) > 1:
        names = [own[0].group for own in groups]
        for own in groups:
            title = own[0].group if names.count(own[0].group) == 1 else f"{own[0].benchmark}: {own[0].group}"
            made.append(_curve(analysis, title, own))
    return made


def _curve(analysis: Analysis, title: str, boards: Sequence[TaskBoard]) -> Curve:
    configurations = analysis.configurations
    lines = []
    for colour, policy in enumerate(configurations.policies):
        for mode in configurations.modes:
            own = [c for c in configurations.all if c.policy == policy and c.mode == mode]
            points = [Point(configurations.kept[c], c.budget, analysis.score(c, boards)) for c in own]
            points = sorted(point for point in points if point.score.known)
            if points:
                lines.append(Line(policy if len(configurations.modes) == 1 else f"{policy}, {mode}", colour, points))
    full = [analysis.score(configuration, boards) for configuration in configurations.full]
    num = sum(len(board.examples) for board in boards)
    return Curve(title, ", ".join(board.task for board in boards), num, [f for f in full if f.known], lines)
