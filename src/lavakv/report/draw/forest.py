"""Differences with their intervals, as geometry: zero in the middle of a shared axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lavakv.report.draw.scale import Axis, ticks
from lavakv.report.numbers import MINUS
from lavakv.report.sections.duels import Duel

WIDTH = 300


class Forest(NamedTuple):
    """A column of bars.

    Attributes:
        width: of every bar's picture.
        zero: place of zero.
        ticks: place and label.
        bars: places of low, mean and high, one a duel.
    """

    width: int
    zero: float
    ticks: list[tuple[float, str]]
    bars: list[tuple[float, float, float]]


def forest(duels: Sequence[Duel]) -> Forest:
    """Lay out differences, all on one axis that contains zero."""
    low = min([0.0, *(duel.difference.low for duel in duels)])
    high = max([0.0, *(duel.difference.high for duel in duels)])
    marks = ticks(low, high, most=6)
    axis = Axis(marks[0], marks[-1], 12, WIDTH - 12)
    places = [(duel.difference.low, duel.difference.mean, duel.difference.high) for duel in duels]
    return Forest(
        WIDTH,
        axis.place(0),
        [(axis.place(value), f"{value:+g}".replace("-", MINUS) if value else "0") for value in marks],
        [(axis.place(a), axis.place(b), axis.place(c)) for a, b, c in places],
    )
