"""A report written into a folder: one self-contained HTML page, Markdown, and the pictures beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lavakv.evaluation.bootstrap import FEW, FEW_IN_TASK, LEVEL, NUM_DRAWS
from lavakv.files import write_output
from lavakv.report.configuration import Configuration
from lavakv.report.contents import Report
from lavakv.report.draw.chart import LineChart
from lavakv.report.draw.layout import Forest, forest, map_grid
from lavakv.report.page import as_bytes, render
from lavakv.report.pictures import SMALL, WIDE, pictures, score_chart
from lavakv.report.run import HTML
from lavakv.report.sections.comparisons import PairedComparison
from lavakv.report.sections.curves import Curve
from lavakv.report.sections.failures import KINDS


def html(report: Report) -> str:
    """A report as one self-contained HTML page, without any network access."""
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
        baseline_forest=_forest(report.baseline_comparisons),
        full_forest=_forest(report.full_comparisons),
        grids={task.task: map_grid(len(task.lengths), len(task.depths)) for task in report.needles},
        shown_failures=len(report.failures),
        all_failures=sum(report.num_failures.values()),
    )


def _sections(report: Report) -> Iterator[tuple[str, str]]:
    yield "short", "Summary"
    yield "scores", "Scores"
    if report.curves:
        yield "curves", "Curves"
    if report.baseline_comparisons or report.full_comparisons:
        yield "comparisons", "Comparisons"
    if report.needles:
        yield "needle", "Needle"
    yield "cost", "Cost"
    if report.shares:
        yield "budgets", "Budgets"
    yield "failures", "Changed answers"
    yield "run", "This run"


def _forest(comparisons: Sequence[PairedComparison]) -> Forest:
    return forest(
        [
            (comparison.difference.low, comparison.difference.mean, comparison.difference.high)
            for comparison in comparisons
        ]
    )


def _legend(report: Report) -> list[Configuration]:
    """One configuration of each policy, the full cache first."""
    return list({configuration.policy: configuration for configuration in report.analysis.configurations.all}.values())


def _charts(report: Report) -> list[tuple[Curve, LineChart, LineChart | None]]:
    """A small chart of every curve, and a wide one of the first."""
    made = []
    for index, curve in enumerate(report.curves):
        small, wide = score_chart(curve, *SMALL), score_chart(curve, *WIDE)
        if small is not None:
            made.append((curve, small, wide if index == 0 else None))
    return made


def markdown(report: Report, pictures: Mapping[str, str]) -> str:
    """A report as Markdown.

    Args:
        report: the computed sections.
        pictures: titles of the pictures to link, by file name.
    """
    return render(
        "report/page.md",
        report=report,
        configurations=report.analysis.configurations,
        pictures=pictures,
        level=LEVEL,
        few=FEW,
        few_in_task=FEW_IN_TASK,
        draws=f"{NUM_DRAWS:,}",
        kinds=KINDS,
    )


MARKDOWN = "report.md"


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write the HTML page, the Markdown and its pictures, and return their paths, the page first.

    Raises:
        InputError: the folder cannot be written to.
        DiskError: the disk is full or broken.
        UnsupportedError: jinja2 is not installed.
    """
    drawn = pictures(report)
    texts = {HTML: html(report), MARKDOWN: markdown(report, {name: title for name, (title, _) in drawn.items()})}
    texts |= {name: svg for name, (_, svg) in drawn.items()}
    for name, text in texts.items():
        write_output("--out", folder / name, as_bytes(text), make_folder=True)
    return [folder / name for name in texts]
