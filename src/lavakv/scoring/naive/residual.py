"""Reference implementation of `residual`, `residual-far` and `residual-max`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lavakv.scoring.naive.tiers import defensive_attention_naive
from lavakv.scoring.naive.window import NaiveWindow, Rows, attention_row_naive

UNSEEN_SHARE = 0.003
MIN_REST = 2.0**-10
MIN_NORM = 2.0**-63


def residual_score_naive(window: NaiveWindow) -> list[list[float]]:
    """Reference implementation of `residual_score`."""
    return [[math.sqrt(square) for square in row] for row in residual_squares_naive(window)]


def residual_squares_naive(window: NaiveWindow) -> list[list[float]]:
    """`residual_score_naive` before the root, `[kv_heads][n]`: squared changes of the stream, summed over a group."""
    squares, share = [], UNSEEN_SHARE / len(window.keys[0])
    for head in range(len(window.keys)):
        parts = [changes_naive(window, query_head) for query_head in window.group(head)]
        evictable = range(window.num_evictable)
        squares.append([math.fsum(known[i] + share * unseen[i] for known, unseen in parts) for i in evictable])
    return squares


def changes_naive(window: NaiveWindow, query_head: int) -> tuple[list[float], list[float]]:
    """For each evictable position: what the window's rows lose with it, and what rows that attend elsewhere do."""
    rows = [attention_row_naive(window, query_head, row) for row in range(len(window.queries[0]))]
    distances = [distances_naive(window, query_head, row)[: window.num_evictable] for row in rows]
    seen, weights = [row[: window.num_evictable] for row in rows], row_weights_naive(window)
    flatter, surprise = [expected_row_naive(row, drift_naive(seen)) for row in rows], surprise_naive(seen)
    known, unseen = [], []
    for i in range(window.num_evictable):
        losses = [squared_share_naive(row[i]) for row in flatter]
        triples = zip(weights, losses, distances, strict=True)
        known.append(math.fsum(weight * loss * row[i] for weight, loss, row in triples))
        unseen.append(surprise * math.fsum(weight * row[i] for weight, row in zip(weights, distances, strict=True)))
    return known, unseen


def squared_share_naive(share: float) -> float:
    """By what leaving an entry out multiplies its squared distance from the output."""
    return (share / max(1 - share, MIN_REST)) ** 2


def distances_naive(window: NaiveWindow, query_head: int, attention: Sequence[float]) -> list[float]:
    """Squared length, after the output projection, of each value less the row's output."""
    assert window.output_weight is not None
    weight, values = window.output_weight[query_head], window.values[query_head // len(window.group(0))]
    output = [math.fsum(a * x for a, x in zip(attention, column, strict=True)) for column in zip(*values, strict=True)]
    squares = []
    for value in values:
        apart = [x - y for x, y in zip(value, output, strict=True)]
        squares.append(math.fsum(out * out for out in projected_naive(apart, weight)))
    return squares


def projected_naive(vector: Sequence[float], weight: Rows) -> list[float]:
    """A vector `[value_dim]` after one query head's output projection."""
    return [math.fsum(x * w for x, w in zip(vector, column, strict=True)) for column in zip(*weight, strict=True)]


def row_weights_naive(window: NaiveWindow) -> list[float]:
    """Weights of the window's rows: the later the more, over the square of the stream's norm; 0 where that is zero."""
    assert window.residual_norms is not None
    places = [place if norm >= MIN_NORM else 0 for place, norm in enumerate(window.residual_norms, start=1)]
    whole = sum(places) or math.nan
    return [place / whole / (norm**2 or 1.0) for place, norm in zip(places, window.residual_norms, strict=True)]


def expected_row_naive(attention: Sequence[float], drift: float) -> list[float]:
    """A row mixed with a flatter one of the same sum, from fourth roots."""
    roots = [share**0.25 for share in attention]
    factor = math.fsum(attention) / (math.fsum(roots) or 1.0)
    return [(1 - drift) * share + drift * factor * root for share, root in zip(attention, roots, strict=True)]


def drift_naive(seen: Rows) -> float:
    """Twice the attention that moves from the first half of the rows to the second, at most 1; 1 for one row."""
    half = len(seen) // 2
    if half == 0:
        return 1.0
    moved = [
        abs(math.fsum(column[:half]) / half - math.fsum(column[half:]) / (len(seen) - half))
        for column in zip(*seen, strict=True)
    ]
    return min(1.0, 2 * (math.fsum(moved) / 2))


def surprise_naive(seen: Rows) -> float:
    """Mean over the rows of the squares by which one exceeds the mean of all others."""
    squares = []
    for column in zip(*seen, strict=True):
        for row, share in enumerate(column):
            others = [other for place, other in enumerate(column) if place != row]
            squares.append(max(0.0, share - math.fsum(others) / max(len(others), 1)) ** 2)
    return math.fsum(squares) / len(seen)


def residual_far_squares_naive(
    window: NaiveWindow, max_rows: int = 128, skipped: float = 0.25, distance: int = 128, share: float = 0.1
) -> list[list[float]]:
    """Reference implementation of `residual_far_score` before the root; settings as in `DistantQueries`."""
    scale = share * math.fsum(row_weights_naive(window))
    squares = residual_squares_naive(window)
    rows = positions_naive(window.num_evictable, max_rows, skipped)
    for head, row in enumerate(squares):
        for position in range(window.num_evictable):
            row[position] += scale * far_change_naive(window, head, position, rows, distance)
    return squares


def positions_naive(num_evictable: int, max_rows: int, skipped: float) -> list[int]:
    """Distant rows: the last of each of `max_rows` equal parts of what is not skipped."""
    places = list(range(int(skipped * num_evictable), num_evictable))
    count = min(max_rows, len(places))
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


def residual_max_score_naive(window: NaiveWindow) -> list[list[float]]:
    """Reference implementation of `residual_max_score`."""
    assert window.output_weight is not None
    assert window.residual_norms is not None
    norms = [norm for norm in window.residual_norms if norm >= MIN_NORM]
    scale = math.sqrt(math.fsum(norm * norm for norm in norms) / len(norms))
    scores = []
    for head, worst in enumerate(defensive_attention_naive(window)):
        group = window.group(head)
        row = []
        for i, share in enumerate(worst):
            squares = []
            for query_head in group:
                outputs = projected_naive(window.values[head][i], window.output_weight[query_head])
                squares.append(math.fsum(out * out for out in outputs))
            row.append(share * math.sqrt(math.fsum(squares) / len(squares)) / scale)
        scores.append(row)
    return scores
