"""Layouts, as geometry: bars around a shared zero, cells of a map, a legend, pictures in rows on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from lavakv.report.draw.chart import DrawnLine
from lavakv.report.draw.scale import Axis, thinned, ticks
from lavakv.report.numbers import MINUS

MARGIN, GAP, TITLE = 16, 20, 22
_BAR_WIDTH = 300
_MAP_WIDTH, _MAX_CELL, _MIN_CELL, _LABELS = 270, 20, 7, 30
_LEGEND_ROW, _LEGEND_SWATCH, _LETTER = 22, 28, 6.5


class Forest(NamedTuple):
    """A column of bars.

    Attributes:
        width: of every bar's drawing.
        zero: coordinate of zero.
        ticks: coordinate and label.
        bars: coordinates of low, mean and high of each difference.
    """

    width: int
    zero: float
    ticks: list[tuple[float, str]]
    bars: list[tuple[float, float, float]]


def forest(intervals: Sequence[tuple[float, float, float]]) -> Forest:
    """Lay out differences, each as low, mean and high, on one axis that contains zero."""
    low = min([0.0, *(interval[0] for interval in intervals)])
    high = max([0.0, *(interval[2] for interval in intervals)])
    marks = ticks(low, high)
    axis = Axis(marks[0], marks[-1], 12, _BAR_WIDTH - 12)
    return Forest(
        _BAR_WIDTH,
        axis.place(0),
        [(axis.place(value), f"{value:+g}".replace("-", MINUS) if value else "0") for value in marks],
        [(axis.place(a), axis.place(b), axis.place(c)) for a, b, c in intervals],
    )


class MapGrid(NamedTuple):
    """Cell sizes of a map in units of the drawing, and which columns and rows get a label."""

    width: int
    wide: int
    tall: int
    columns: list[bool]
    rows: list[bool]


def map_grid(num_columns: int, num_rows: int) -> MapGrid:
    """Lay out a map of lengths by depths."""
    wide = max(min(_MAP_WIDTH // num_columns, 3 * _MAX_CELL), _MIN_CELL)
    tall = max(min(_MAP_WIDTH // num_rows, _MAX_CELL), _MIN_CELL)
    return MapGrid(
        _LABELS + num_columns * wide + 6,
        wide,
        tall,
        thinned([index * wide for index in range(num_columns)], 30),
        thinned([index * tall for index in range(num_rows)], 13),
    )


class Picture(NamedTuple):
    """One picture of a sheet, before or after it is placed.

    Attributes:
        title: above it.
        width: in units of the sheet.
        height: of the picture alone.
        drawn: what the template draws.
        about: what else it needs for that.
        grid: of a needle map, else None.
        x: left edge.
        y: upper edge, below the title.
    """

    title: str
    width: int
    height: int
    drawn: Any
    about: Any = None
    grid: Any = None
    x: int = 0
    y: int = 0


class Sheet(NamedTuple):
    """Placed pictures, their legend as `(x, y, line)`, and the size of it all."""

    width: int
    height: int
    pictures: list[Picture]
    legend: list[tuple[float, float, DrawnLine]]


def sheet(rows: Sequence[Sequence[Picture]], lines: Sequence[DrawnLine] = ()) -> Sheet:
    """Place rows of pictures below each other, and a legend above them.

    Args:
        rows: pictures, left to right.
        lines: what the legend names.
    """
    right = max((sum(picture.width + GAP for picture in row) for row in rows), default=0) + MARGIN - GAP
    legend, top = _legend(lines, right)
    placed, y = [], MARGIN + top
    for row in rows:
        x = MARGIN
        for picture in row:
            placed.append(picture._replace(x=x, y=y + TITLE))
            x += picture.width + GAP
        y += TITLE + max(picture.height for picture in row) + GAP
    return Sheet(right + MARGIN, y - GAP + MARGIN, placed, legend)


def _legend(lines: Sequence[DrawnLine], right: float) -> tuple[list[tuple[float, float, DrawnLine]], int]:
    """Entries from left to right, in as many rows as they need, and the height of these."""
    entries: list[tuple[float, float, DrawnLine]] = []
    x, row = float(MARGIN), 0
    for line in lines:
        width = _LEGEND_SWATCH + _LETTER * len(line.name) + GAP
        if x > MARGIN and x + width - GAP > right:
            x, row = float(MARGIN), row + 1
        entries.append((round(x, 1), 10.0 + row * _LEGEND_ROW, line))
        x += width
    return entries, (row + 1) * _LEGEND_ROW + 4 if entries else 0
