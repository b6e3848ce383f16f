"""Axes: from numbers to coordinates in a drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MIN_SPAN = 1e-6


class Axis(NamedTuple):
    """A linear or logarithmic axis.

    Attributes:
        low: number at `start`.
        high: number at `end`.
        start: coordinate, in units of the drawing.
        end: coordinate.
        log: whether the axis is logarithmic; then numbers are above zero.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Coordinate of a number, rounded to a tenth."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        number = math.log(value) if self.log else value
        return round(self.start + (self.end - self.start) * (number - low) / (high - low), 1)


def ticks(low: float, high: float, max_count: int = 6) -> list[float]:
    """Round numbers that cover a range: steps of 1, 2 or 5 times a power of ten, at most `max_count`."""
    if high - low < MIN_SPAN:
        low, high = low - 1, high + 1
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / max_count))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if span / (factor * power) <= max_count - 1)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(index * step, 10) for index in range(first, last + 1)]


def log_ticks(low: float, high: float, max_count: int = 8) -> list[float]:
    """Powers of ten that cover a range of positive numbers, with 2 and 5 times them where the range is short."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(math.ceil((last - first) / (max_count - 1)), 1)
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    marks = [float(f"{factor}e{power}") for power in range(first, last + stride, stride) for factor in factors]
    start = max((index for index, mark in enumerate(marks) if mark <= low), default=0)
    stop = min((index for index, mark in enumerate(marks) if mark >= high and index > start), default=len(marks) - 1)
    return marks[start : stop + 1]


def log_label(value: float) -> str:
    """A tick of a logarithmic axis, as in "0.02", "500", "10⁻⁶" or "2·10⁸"."""
    if 1e-3 <= value < 1e5:
        return f"{value:g}"
    digits, _, power = f"{value:.0e}".partition("e")
    raised = f"10{str(int(power)).translate(_SUPERSCRIPTS)}"
    return raised if digits == "1" else f"{digits}·{raised}"


def thinned(coordinates: Sequence[float], gap: float) -> list[bool]:
    """Whether to label each of some ascending coordinates, so that labels are at least a gap apart."""
    chosen, last = [], -math.inf
    for coordinate in coordinates:
        chosen.append(coordinate - last >= gap)
        last = coordinate if chosen[-1] else last
    return chosen
