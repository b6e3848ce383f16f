"""The report's pictures: its charts, and SVG files for Markdown in plain colours that simple viewers show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lavakv.report.contents import Report
from lavakv.report.draw.chart import Frame, LineChart, Point, Series, line_chart
from lavakv.report.draw.files import sheet_svg
from lavakv.report.draw.layout import Picture, map_grid, sheet
from lavakv.report.filters import by_budget, highest_share
from lavakv.report.numbers import interval, percent, score
from lavakv.report.sections.curves import Curve

SMALL, WIDE = (340, 220), (720, 330)
_PER_ROW, _NUM_COLOURS, _MIN_KEPT = 3, 8, 1e-4


def score_chart(curve: Curve, width: int, height: int) -> LineChart | None:
    """Lay out score against kept fraction, with intervals; None if there is nothing to draw."""
    series = [
        Series(
            line.name,
            line.colour,
            shape,
            [
                Point(
                    max(round(point.kept, 4), _MIN_KEPT),
                    point.score.mean,
                    f"{line.name}, budget {point.budget}: {score(point.score.mean)} ({interval(point.score)})\n"
                    f"{percent(point.kept)} kept, {point.score.num} prompts",
                    point.score.low,
                    point.score.high,
                )
                for point in line.points
            ],
            "5 3" if line.colour >= _NUM_COLOURS else "",
        )
        for shape, line in enumerate(curve.lines)
    ]
    levels = [Point(1.0, full.mean, f"full cache: {score(full.mean)}", full.low, full.high) for full in curve.full]
    return line_chart(series, Frame(width, height, x_text=percent, dodge=True), levels)


def pictures(report: Report) -> dict[str, tuple[str, str]]:
    """Title and SVG of every picture that the run has data for, by file name."""
    curves = [(curve, score_chart(curve, *SMALL)) for curve in report.curves]
    charts = [Picture(curve.title, *SMALL, chart) for curve, chart in curves if chart is not None]
    curve_sheet = sheet(_rows(charts), charts[0].drawn.lines if charts else ())
    needle_sheet, share_sheet = sheet(list(_needles(report))), sheet(list(_shares(report)))
    sheets = {
        "curves": ("charts", "Score against kept fraction", curve_sheet),
        "needle": ("needle", "Needle in a haystack: depth in percent by length in tokens", needle_sheet),
        "budgets": ("budgets", "Share of the prompt kept: heads by layers", share_sheet),
    }
    return {
        f"report-{name}.svg": (title, sheet_svg(kind, title, page))
        for name, (kind, title, page) in sheets.items()
        if page.pictures
    }


def _rows(own: Sequence[Picture]) -> list[Sequence[Picture]]:
    return [own[start : start + _PER_ROW] for start in range(0, len(own), _PER_ROW)]


def _needles(report: Report) -> Iterator[list[Picture]]:
    for task in report.needles:
        grid = map_grid(len(task.lengths), len(task.depths))
        height = 22 + len(task.depths) * grid.tall
        for _, own in by_budget(task.maps):
            names = [f"{report.analysis.configurations.name(one.configuration)}: {one.mean:.1f}" for one in own]
            width = max(grid.width, 7 * max(map(len, names)))
            yield [Picture(name, width, height, one, task, grid) for name, one in zip(names, own, strict=True)]


def _shares(report: Report) -> Iterator[list[Picture]]:
    for _, own in by_budget(report.shares):
        layers, heads = own[0].shares.shape
        side = min(max(560 // layers, 8), 22)
        width, height = 26 + layers * side, 66 + heads * side
        for row in _rows(
            [Picture(report.analysis.configurations.name(o.configuration), width, height, o) for o in own]
        ):
            yield [one._replace(width=max(width, 7 * len(one.title)), about=highest_share(own)) for one in row]
