"""Axes: from numbers to places on paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Axis(NamedTuple):
    """A linear or logarithmic axis.

    Attributes:
        low: number at `start`.
        high: number at `end`.
        start: place, in units of the picture.
        end: place.
        log: logarithmic? Then numbers are above zero.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a number lies, rounded to a tenth."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        number = math.log(value) if self.log else value
        return round(self.start + (self.end - self.start) * (number - low) / (high - low), 1)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that cover a range: steps of 1, 2 or 5 times a power of ten, `most` at the most."""
    if high - low < 1e-6:
        low, high = low - 1, high + 1
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if span / (factor * power) <= most - 1)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(index * step, 10) for index in range(first, last + 1)]


def thinned(places: Sequence[float], gap: float) -> list[bool]:
    """Which of some ascending places to label, so that labels stay a gap apart."""
    chosen, last = [], -math.inf
    for place in places:
        chosen.append(place - last >= gap)
        last = place if chosen[-1] else last
    return chosen
