"""The cells of a needle map."""

from __future__ import annotations

from typing import NamedTuple

from lavakv.report.draw.scale import thinned

_WIDTH, _TALLEST, _NARROWEST, _LABELS = 270, 20, 7, 30


class MapGrid(NamedTuple):
    """Sizes in units of the picture, and which columns and rows have room for a label."""

    width: int
    wide: int
    tall: int
    columns: list[bool]
    rows: list[bool]


def map_grid(num_columns: int, num_rows: int) -> MapGrid:
    """Lay out a map of lengths by depths."""
    wide = max(min(_WIDTH // num_columns, 3 * _TALLEST), _NARROWEST)
    tall = max(min(_WIDTH // num_rows, _TALLEST), _NARROWEST)
    return MapGrid(
        _LABELS + num_columns * wide + 6,
        wide,
        tall,
        thinned([index * wide for index in range(num_columns)], 30),
        thinned([index * tall for index in range(num_rows)], 13),
    )
