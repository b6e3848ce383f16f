"""The report as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lavakv.evaluation.bootstrap import FEW, FEW_IN_TASK, LEVEL, NUM_DRAWS
from lavakv.report.contender import Contender
from lavakv.report.contents import Report
from lavakv.report.draw.chart import LineChart
from lavakv.report.draw.layout import Forest, forest, map_grid
from lavakv.report.page import render
from lavakv.report.pictures import SMALL, WIDE, score_chart
from lavakv.report.sections.curves import Curve
from lavakv.report.sections.duels import Duel
from lavakv.report.sections.failures import KINDS


def html(report: Report) -> str:
    """Write a report as a page; it asks the network for nothing, and forbids itself to."""
    return render(
        "report/page.html",
        report=report,
        sections=list(_sections(report)),
        legend=_legend(report),
        level=LEVEL,
        few=FEW,
        few_in_task=FEW_IN_TASK,
        draws=f"{NUM_DRAWS:,}",
        kinds=KINDS,
        charts=_charts(report),
        rival_forest=_forest(report.rivals),
        gap_forest=_forest(report.gaps),
        grids={task.task: map_grid(len(task.lengths), len(task.depths)) for task in report.needles},
        shown_failures=len(report.failures),
        all_failures=sum(report.num_failures.values()),
    )


def _sections(report: Report) -> Iterator[tuple[str, str]]:
    yield "short", "In short"
    yield "scores", "Scores"
    if report.curves:
        yield "curves", "Curves"
    if report.rivals or report.gaps:
        yield "ahead", "Who is ahead"
    if report.needles:
        yield "needle", "Needle"
    yield "cost", "Cost"
    if report.shares:
        yield "budgets", "Budgets"
    yield "failures", "Answers"
    yield "run", "This run"


def _forest(duels: Sequence[Duel]) -> Forest:
    return forest([(duel.difference.low, duel.difference.mean, duel.difference.high) for duel in duels])


def _legend(report: Report) -> list[Contender]:
    """One contender a policy, the full cache first."""
    return list({contender.policy: contender for contender in report.analysis.field.contenders}.values())


def _charts(report: Report) -> list[tuple[Curve, LineChart, LineChart | None]]:
    """Every curve, small; the first wide as well."""
    made = []
    for index, curve in enumerate(report.curves):
        small, wide = score_chart(curve, *SMALL), score_chart(curve, *WIDE)
        if small is not None:
            made.append((curve, small, wide if index == 0 else None))
    return made
