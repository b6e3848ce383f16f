"""The truth about `residual-far`'s score, in loops over plain Python numbers."""

from __future__ import annotations

import math

from lavakv.scoring.naive import NaiveWindow, attention_row_naive
from lavakv.scoring.naive_residual import (
    distances_naive,
    residual_squares_naive,
    row_weights_naive,
    squared_share_naive,
)


def residual_far_squares_naive(
    window: NaiveWindow, most: int = 128, skipped: float = 0.25, distance: int = 128, share: float = 0.1
) -> list[list[float]]:
    """Twin of `residual_far_score` before the root, `[kv_heads][n]`; settings as in `FarRows`."""
    scale = share * math.fsum(row_weights_naive(window))
    squares = residual_squares_naive(window)
    rows = positions_naive(window.num_evictable, most, skipped)
    for head, row in enumerate(squares):
        for position in range(window.num_evictable):
            row[position] += scale * far_change_naive(window, head, position, rows, distance)
    return squares


def positions_naive(num_evictable: int, most: int, skipped: float) -> list[int]:
    """The rows asked: the last of each of so many equal parts of what is not skipped."""
    places = list(range(int(skipped * num_evictable), num_evictable))
    count = min(most, len(places))
    return [places[len(places) * part // count - 1] for part in range(1, count + 1)]


def far_change_naive(window: NaiveWindow, head: int, position: int, rows: list[int], distance: int) -> float:
    """Mean squared change over the rows that are more than `distance` behind, an eighth of all of them at least."""
    assert window.prompt_queries is not None
    whole = window._replace(queries=window.prompt_queries, visible=window.prompt_visible)
    far = [row for row in rows if row - position > distance]
    changes = []
    for query_head in window.group(head):
        for row in far:
            attention = attention_row_naive(whole, query_head, row)
            apart = distances_naive(whole, query_head, attention)[position]
            changes.append(squared_share_naive(attention[position]) * apart)
    return math.fsum(changes) / max(len(far), len(rows) / 8)
