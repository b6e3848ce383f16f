"""Score against kept fraction, as geometry."""

from __future__ import annotations

from typing import NamedTuple

from lavakv.report.draw.scale import Axis, thinned, ticks
from lavakv.report.numbers import interval, percent, score
from lavakv.report.sections.curves import Curve

LEFT, RIGHT, TOP, BOTTOM = 38, 14, 12, 30
DODGE = 3.0


class Mark(NamedTuple):
    """A point with its whisker, in units of the picture; `tip` says it in words."""

    x: float
    y: float
    low: float
    high: float
    tip: str


class DrawnLine(NamedTuple):
    """A policy's line: name, colour, which marker, its marks."""

    name: str
    colour: int
    shape: int
    marks: list[Mark]


class LineChart(NamedTuple):
    """A chart of `width` by `height` units.

    Attributes:
        width: of the picture.
        height: of the picture.
        x_ticks: place, label ("" where it would touch its neighbour).
        y_ticks: place, label.
        full: places of mean, low and high of the full cache, and what to say, once a mode.
        lines: the policies.
    """

    width: int
    height: int
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    full: list[tuple[float, float, float, str]]
    lines: list[DrawnLine]


def line_chart(curve: Curve, width: int, height: int) -> LineChart | None:
    """Lay out a curve; None if there is nothing to draw."""
    points = [point for line in curve.lines for point in line.points]
    if not points:
        return None
    kept = sorted({round(point.kept, 4) for point in points})
    x = Axis(max(kept[0], 1e-4) / 1.25, kept[-1] * 1.25, LEFT, width - RIGHT, log=True)
    estimates = [point.score for point in points] + curve.full
    marks = ticks(min(e.low for e in estimates), max(e.high for e in estimates))
    y = Axis(marks[0], marks[-1], height - BOTTOM, TOP)
    places = [x.place(max(value, 1e-4)) for value in kept]
    labelled = thinned(places, 34)
    return LineChart(
        width,
        height,
        [(place, percent(v) if show else "") for place, v, show in zip(places, kept, labelled, strict=True)],
        [(y.place(value), f"{value:g}") for value in marks],
        [(y.place(e.mean), y.place(e.low), y.place(e.high), f"full cache: {score(e.mean)}") for e in curve.full],
        [_line(curve, index, x, y) for index in range(len(curve.lines))],
    )


def _line(curve: Curve, index: int, x: Axis, y: Axis) -> DrawnLine:
    """Whiskers of neighbouring lines stand a little apart."""
    line, shift = curve.lines[index], DODGE * (index - (len(curve.lines) - 1) / 2)
    marks = [
        Mark(
            round(x.place(max(point.kept, 1e-4)) + shift, 1),
            y.place(point.score.mean),
            y.place(point.score.low),
            y.place(point.score.high),
            f"{line.name}, budget {point.budget}: {score(point.score.mean)} ({interval(point.score)})\n"
            f"{percent(point.kept)} kept, {point.score.num} prompts",
        )
        for point in line.points
    ]
    return DrawnLine(line.name, line.colour, index, marks)
