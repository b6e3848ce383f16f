"""Numbers formatted for readers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lavakv.evaluation.bootstrap import Estimate

MINUS, NONE, TIED = "\u2212", "\u2013", "\u00a0"  # no line break between number and unit


def score(value: float, decimals: int = 1) -> str:
    """A score, as in "41.2"; a dash for NaN."""
    return NONE if math.isnan(value) else f"{value:.{decimals}f}".replace("-", MINUS)


def signed(value: float, decimals: int = 1) -> str:
    """A difference, as in "+1.3"; with a minus sign, not a hyphen, and no sign if it rounds to zero."""
    if math.isnan(value):
        return NONE
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def interval(estimate: Estimate, decimals: int = 1, signs: bool = False) -> str:
    """An interval, as in "36.0 to 46.8"."""
    write = signed if signs else score
    return f"{write(estimate.low, decimals)} to {write(estimate.high, decimals)}"


def percent(fraction: float) -> str:
    """A fraction in percent, as in "4.1 %"; without decimals from 10 on."""
    if math.isnan(fraction):
        return NONE
    return (f"{fraction:.0%}" if fraction >= 0.0995 else f"{fraction:.1%}").replace("%", f"{TIED}%")


def plural(count: int, noun: str) -> str:
    """A count with its noun, as in "1 prompt", "1,200 prompts"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def seconds(value: float | None) -> str:
    """A duration, as in "3.1 s" or "12 ms"; a dash if unknown."""
    if value is None or math.isnan(value):
        return NONE
    return f"{value:.1f}{TIED}s" if value >= 1 else f"{1000 * value:.0f}{TIED}ms"


def size(count: float) -> str:
    """Bytes in binary units, as in "23.6 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f}{TIED}B" if unit == "B" else f"{count:.1f}{TIED}{unit}"
        count /= 1024
    return f"{count:.2f}{TIED}GiB"
