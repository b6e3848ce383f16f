"""Named points on two axes, as geometry: each label goes where it covers the least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lavakv.report.draw.chart import RIGHT, TOP, Frame
from lavakv.report.draw.scale import Axis, log_label, log_ticks, ticks

_LETTER, _LINE, _RADIUS = 5.8, 11.0, 4.0
_PLACES = ((7.0, 4.0, "start"), (-7.0, 4.0, "end"), (0.0, -7.0, "middle"), (0.0, 15.0, "middle"),
           (6.0, -5.0, "start"), (6.0, 13.0, "start"), (-6.0, -5.0, "end"), (-6.0, 13.0, "end"))  # fmt: skip


class Dot(NamedTuple):
    """A named point, in the data's numbers; `tip` says it in words, `colour` is its index in the page's palette."""

    name: str
    x: float
    y: float
    tip: str
    colour: int


class PlacedDot(NamedTuple):
    """A point in units of the drawing, with its label's place and anchor."""

    name: str
    x: float
    y: float
    label_x: float
    label_y: float
    anchor: str
    tip: str
    colour: int


class Scatter(NamedTuple):
    """A drawing of `width` by `height` units; ticks are coordinate and label."""

    width: int
    height: int
    left: int
    bottom: int
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    dots: list[PlacedDot]
    front: list[tuple[float, float]]
    x_label: str
    y_label: str


def scatter(dots: Sequence[Dot], frame: Frame) -> Scatter | None:
    """Lay out points, x on a logarithmic axis; None if there are none.

    Args:
        dots: x above zero.
        frame: size and labels of the axes.
    """
    if not dots:
        return None
    marks, rows = (
        log_ticks(min(d.x for d in dots) / 1.3, max(d.x for d in dots) * 1.3),
        ticks(0, max(d.y for d in dots)),
    )
    x = Axis(marks[0], marks[-1], frame.left + 8, frame.width - RIGHT - 60, log=True)
    y = Axis(rows[0], rows[-1], frame.bottom, TOP)
    points = [(x.place(dot.x), y.place(dot.y)) for dot in dots]
    return Scatter(
        frame.width, frame.height, frame.left, frame.bottom,
        [(x.place(mark), log_label(mark)) for mark in marks],
        [(y.place(row), f"{row:g}") for row in rows],
        _labelled(dots, points, frame),
        [(x.place(dot.x), y.place(dot.y)) for dot in front(dots)],
        frame.x_label, frame.y_label,
    )  # fmt: skip


def front(dots: Sequence[Dot]) -> list[Dot]:
    """The points that no other one beats in both, by x: none is as far left and higher."""
    found: list[Dot] = []
    for dot in sorted(dots, key=lambda each: (each.x, -each.y)):
        if not found or dot.y > found[-1].y:
            found.append(dot)
    return found


Box = tuple[float, float, float, float]


def _labelled(dots: Sequence[Dot], points: Sequence[tuple[float, float]], frame: Frame) -> list[PlacedDot]:
    taken = [(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y in points]
    placed = []
    for dot, (x, y) in zip(dots, points, strict=True):
        boxes = [_box(dot.name, x + dx, y + dy, anchor) for dx, dy, anchor in _PLACES]
        costs = [_outside(box, frame) + sum(_overlap(box, other) for other in taken) for box in boxes]
        best = costs.index(min(costs))
        dx, dy, anchor = _PLACES[best]
        taken.append(boxes[best])
        placed.append(PlacedDot(dot.name, x, y, round(x + dx, 1), round(y + dy, 1), anchor, dot.tip, dot.colour))
    return placed


def _box(text: str, x: float, y: float, anchor: str) -> Box:
    """What a label covers; `y` is its base line."""
    width = _LETTER * len(text)
    left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    return left, y - _LINE + 2, left + width, y + 2


def _overlap(one: Box, other: Box) -> float:
    """Area that two boxes share."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    return wide * tall if wide > 0 and tall > 0 else 0.0


def _outside(box: Box, frame: Frame) -> float:
    """Area of a box beyond the drawing."""
    whole = (box[2] - box[0]) * (box[3] - box[1])
    return 10 * (whole - _overlap(box, (frame.left, 0.0, frame.width, frame.bottom)))
