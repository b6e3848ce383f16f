"""The report's pictures as SVG files, for Markdown: plain colours, nothing that a simple viewer lacks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.resources import files

from lavakv.report.contents import Report
from lavakv.report.draw.grid import map_grid
from lavakv.report.draw.lines import line_chart
from lavakv.report.draw.sheet import Picture, Sheet, sheet
from lavakv.report.groups import groupby_contender, highest_share
from lavakv.report.page import render

_CHART, _PER_ROW, _LEGEND = (340, 220), 3, 26


def plots(report: Report) -> dict[str, tuple[str, str]]:
    """Title and SVG of every picture there is something to draw for, by file name."""
    curves = [(curve, line_chart(curve, *_CHART)) for curve in report.curves]
    charts = [Picture(curve.title, *_CHART, chart) for curve, chart in curves if chart is not None]
    legend = charts[0].drawn.lines if charts else []
    sheets = {
        "curves": ("Score against kept fraction", sheet(_rows(charts, _PER_ROW), top=_LEGEND)),
        "needle": ("Needle in a haystack: depth in percent by length in tokens", sheet(list(_needles(report)))),
        "budgets": ("Share of the prompt kept: heads by layers", sheet(list(_shares(report)))),
    }
    return {
        f"report-{kind}.svg": (title, _drawn(kind, title, page, legend if kind == "curves" else []))
        for kind, (title, page) in sheets.items()
        if page.pictures
    }


def _drawn(kind: str, title: str, page: Sheet, legend: Sequence[object]) -> str:
    return render("report/plot.svg", kind=kind, title=title, sheet=page, legend=legend, colours=light_colours())


def light_colours() -> dict[str, str]:
    """The pages' colours by name, as they are in light."""
    css = (files("lavakv.report") / "templates" / "shared" / "colours.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--(\w+): light-dark\((#\w+),", css))


def _rows(pictures: Sequence[Picture], width: int) -> list[Sequence[Picture]]:
    return [pictures[start : start + width] for start in range(0, len(pictures), width)]


def _needles(report: Report) -> Iterator[list[Picture]]:
    for task in report.needles:
        grid = map_grid(len(task.lengths), len(task.depths))
        height = 22 + len(task.depths) * grid.tall
        for _, own in groupby_contender(task.maps):
            names = [f"{report.analysis.field.name(one.contender)}: {one.mean:.1f}" for one in own]
            width = max(grid.width, 7 * max(map(len, names)))
            yield [Picture(name, width, height, one, task, grid) for name, one in zip(names, own, strict=True)]


def _shares(report: Report) -> Iterator[list[Picture]]:
    for _, own in groupby_contender(report.shares):
        layers, heads = own[0].shares.shape
        side = min(max(560 // layers, 8), 22)
        width, height = 26 + layers * side, 66 + heads * side
        for row in _rows([Picture(report.analysis.field.name(o.contender), width, height, o) for o in own], _PER_ROW):
            yield [one._replace(width=max(width, 7 * len(one.title)), about=highest_share(own)) for one in row]
