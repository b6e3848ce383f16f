"""The report as Markdown: the same sections, pictures beside it as SVG files."""

from __future__ import annotations

from collections.abc import Mapping

from lavakv.evaluation.bootstrap import FEW, FEW_IN_TASK, LEVEL, NUM_DRAWS
from lavakv.report.contents import Report
from lavakv.report.page import render
from lavakv.report.sections.failures import KINDS


def markdown(report: Report, pictures: Mapping[str, str]) -> str:
    """Write a report as Markdown.

    Args:
        report: what to say.
        pictures: titles of the pictures to link, by file name.
    """
    return render(
        "report/page.md",
        report=report,
        field=report.analysis.field,
        pictures=pictures,
        level=LEVEL,
        few=FEW,
        few_in_task=FEW_IN_TASK,
        draws=f"{NUM_DRAWS:,}",
        kinds=KINDS,
    )
