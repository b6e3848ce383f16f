"""A line chart, as geometry: series of points with optional intervals, on linear or logarithmic axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lavakv.report.draw.scale import Axis, log_label, log_ticks, thinned, ticks

RIGHT, TOP, BOTTOM = 14, 12, 30
DASHES = ("", "6 3", "2 3", "8 3 2 3")
_DODGE = 3.0
_TICK_GAP, _LABEL_GAP = 3, 34


class Point(NamedTuple):
    """A point of a series, in the data's numbers; `low` to `high` is its interval, `tip` says it in words."""

    x: float
    y: float
    tip: str
    low: float | None = None
    high: float | None = None


class Series(NamedTuple):
    """A line to draw.

    Attributes:
        name: in the legend.
        colour: index of its colour, the same all over a page.
        shape: index of its marker.
        points: from left to right.
        dashes: SVG dash pattern; "" for a solid line.
    """

    name: str
    colour: int
    shape: int
    points: Sequence[Point]
    dashes: str = ""


class Mark(NamedTuple):
    """A point in units of the drawing; `low` and `high` are the ends of its whisker, if it has one."""

    x: float
    y: float
    low: float | None
    high: float | None
    tip: str


class DrawnLine(NamedTuple):
    """A series with its marks in units of the drawing."""

    name: str
    colour: int
    shape: int
    dashes: str
    marks: list[Mark]


class LineChart(NamedTuple):
    """A chart of `width` by `height` units.

    Attributes:
        width: of the drawing.
        height: of the drawing.
        left: of the area inside the axes.
        x_ticks: coordinate, label ("" where it would touch its neighbour).
        y_ticks: coordinate, label.
        levels: coordinates of mean, low and high of each horizontal line, and its tip.
        lines: the series.
        x_label: below the axis, or "".
        y_label: along the axis, or "".
    """

    width: int
    height: int
    left: int
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    levels: list[tuple[float, float, float, str]]
    lines: list[DrawnLine]
    x_label: str
    y_label: str


class Frame(NamedTuple):
    """Size and axes of a chart; the x axis is logarithmic.

    Attributes:
        width: in units.
        height: in units.
        x_label: below the axis, or "".
        y_label: along the axis, or "".
        x_text: writes an x tick.
        log_y: whether the y axis is logarithmic; then all `y` are above zero.
        dodge: whether the marks of neighbouring series stand a little apart.
    """

    width: int
    height: int
    x_label: str = ""
    y_label: str = ""
    x_text: Callable[[float], str] = "{:g}".format
    log_y: bool = False
    dodge: bool = False

    @property
    def left(self) -> int:
        """Start of the area inside the axes."""
        return 66 if self.log_y or self.y_label else 38

    @property
    def bottom(self) -> int:
        """End of the area inside the axes."""
        return self.height - BOTTOM - (14 if self.x_label else 0)


def line_chart(series: Sequence[Series], frame: Frame, levels: Sequence[Point] = ()) -> LineChart | None:
    """Lay out a chart; None if there is no point to draw.

    Args:
        series: the lines, x above zero.
        frame: size and axes.
        levels: horizontal lines with their intervals; their x is ignored.
    """
    points = [point for line in series for point in line.points]
    if not points:
        return None
    values = sorted({point.x for point in points})
    x = Axis(values[0] / 1.25, values[-1] * 1.25, frame.left, frame.width - RIGHT, log=True)
    lows = [point.y if point.low is None else point.low for point in [*points, *levels]]
    highs = [point.y if point.high is None else point.high for point in [*points, *levels]]
    marks = (log_ticks if frame.log_y else ticks)(min(lows), max(highs))
    y = Axis(marks[0], marks[-1], frame.bottom, TOP, log=frame.log_y)
    apart = _DODGE if frame.dodge else 0.0
    return LineChart(
        frame.width,
        frame.height,
        frame.left,
        _x_ticks(values, x, frame.x_text),
        [(y.place(value), log_label(value) if frame.log_y else f"{value:g}") for value in marks],
        [(y.place(p.y), *_ends(p, y), p.tip) for p in levels],
        [_drawn(line, x, y, apart * (index - (len(series) - 1) / 2)) for index, line in enumerate(series)],
        frame.x_label,
        frame.y_label,
    )


def _x_ticks(values: Sequence[float], x: Axis, text: Callable[[float], str]) -> list[tuple[float, str]]:
    """A tick for every value that is not almost the one before; labels where they do not touch."""
    apart = thinned([x.place(value) for value in values], _TICK_GAP)
    kept = [value for value, is_apart in zip(values, apart, strict=True) if is_apart]
    labelled = thinned([x.place(value) for value in kept], _LABEL_GAP)
    return [
        (x.place(value), text(value) if is_labelled else "") for value, is_labelled in zip(kept, labelled, strict=True)
    ]


def _ends(point: Point, y: Axis) -> tuple[float, float]:
    return y.place(point.y if point.low is None else point.low), y.place(point.y if point.high is None else point.high)


def _drawn(line: Series, x: Axis, y: Axis, shift: float) -> DrawnLine:
    marks = []
    for point in line.points:
        low, high = (None, None) if point.low is None else _ends(point, y)
        marks.append(Mark(round(x.place(point.x) + shift, 1), y.place(point.y), low, high, point.tip))
    return DrawnLine(line.name, line.colour, line.shape, line.dashes, marks)
