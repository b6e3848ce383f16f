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
        kept: mean kept fraction, of all tasks.
        budget: its name.
        score: with its interval.
    """

    kept: float
    budget: str
    score: Estimate


class Line(NamedTuple):
    """One policy, in one mode.

    Attributes:
        name: to show.
        colour: index of its colour, the same all over the report.
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
    """The average over all tasks first; groups follow where there is more than one."""
    parts = by_group(analysis.boards)
    made = [_curve(analysis, "All tasks", analysis.boards)]
    if len(parts) > 1:
        names = [own[0].group for own in parts]
        for own in parts:
            title = own[0].group if names.count(own[0].group) == 1 else f"{own[0].benchmark}: {own[0].group}"
            made.append(_curve(analysis, title, own))
    return made


def _curve(analysis: Analysis, title: str, boards: Sequence[TaskBoard]) -> Curve:
    field = analysis.field
    lines = []
    for colour, policy in enumerate(field.policies):
        for mode in field.modes:
            own = [c for c in field.contenders if c.policy == policy and c.mode == mode]
            points = [Point(field.kept[c], c.budget, analysis.score(c, boards)) for c in own]
            points = sorted(point for point in points if point.score.known)
            if points:
                lines.append(Line(policy if len(field.modes) == 1 else f"{policy}, {mode}", colour, points))
    full = [analysis.score(contender, boards) for contender in field.full]
    num = sum(len(board.examples) for board in boards)
    return Curve(title, ", ".join(board.task for board in boards), num, [f for f in full if f.known], lines)
