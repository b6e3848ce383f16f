"""Several pictures on one sheet, in rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

MARGIN, GAP, TITLE = 16, 20, 22


class Picture(NamedTuple):
    """One picture of a sheet, before or after it has its place.

    Attributes:
        title: above it.
        width: in units of the sheet.
        height: of the picture alone.
        drawn: what the template draws.
        about: what else it needs for that.
        grid: of a needle map, else None.
        x: place of the left edge.
        y: place of the upper edge, below the title.
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
    """Placed pictures, and the room they take."""

    width: int
    height: int
    pictures: list[Picture]


def sheet(rows: Sequence[Sequence[Picture]], top: int = 0) -> Sheet:
    """Put rows of pictures under each other.

    Args:
        rows: pictures, left to right.
        top: room to leave above the first row.
    """
    placed, y, right = [], MARGIN + top, 0
    for row in rows:
        x = MARGIN
        for picture in row:
            placed.append(picture._replace(x=x, y=y + TITLE))
            x += picture.width + GAP
        right = max(right, x - GAP)
        y += TITLE + max(picture.height for picture in row) + GAP
    return Sheet(right + MARGIN, y - GAP + MARGIN, placed)
