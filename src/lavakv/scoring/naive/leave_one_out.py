"""Reference implementation of `caote` and `dropkv`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lavakv.scoring.naive.family import average_pool_naive
from lavakv.scoring.naive.residual import MIN_REST
from lavakv.scoring.naive.window import NaiveWindow, Rows, attention_row_naive


def caote_score_naive(window: NaiveWindow) -> list[list[float]]:
    """Reference implementation of `caote_score`."""
    scores = []
    for head, values in enumerate(window.values):
        changes = [_normalised_changes(window, query_head, values) for query_head in window.group(head)]
        evictable = range(window.num_evictable)
        scores.append([math.fsum(change[i] for change in changes) / len(changes) for i in evictable])
    return scores


def _normalised_changes(window: NaiveWindow, query_head: int, values: Rows) -> list[float]:
    """What leaving out each place changes of the window's mean output, the mean attention brought to a sum of one."""
    rows = [attention_row_naive(window, query_head, row) for row in range(len(window.queries[query_head]))]
    means = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
    total = math.fsum(means) or 1.0
    shares = [mean / total for mean in means]
    distances = _distances(shares, values)
    return [share / max(1 - share, MIN_REST) * apart for share, apart in zip(shares, distances, strict=True)]


def dropkv_score_naive(window: NaiveWindow, num_rows: int = 8, kernel_size: int = 11) -> list[list[float]]:
    """Reference implementation of `dropkv_score`."""
    scores = []
    for head in range(len(window.values)):
        rows = [_squared_changes(window, query, row) for query in window.group(head) for row in _last(window, num_rows)]
        means = [math.fsum(column) / len(window.group(head)) for column in zip(*rows, strict=True)]
        scores.append(average_pool_naive(means, kernel_size)[: window.num_evictable])
    return scores


def _last(window: NaiveWindow, num_rows: int) -> range:
    count = len(window.queries[0])
    return range(max(count - num_rows, 0), count)


def _squared_changes(window: NaiveWindow, query_head: int, row: int) -> list[float]:
    """Squared change of one row's output without each place, window included."""
    attention = attention_row_naive(window, query_head, row)
    distances = _distances(attention, window.values[query_head // len(window.group(0))])
    return [(share / (1 - share + 1e-6) * apart) ** 2 for share, apart in zip(attention, distances, strict=True)]


def _distances(shares: Sequence[float], values: Rows) -> list[float]:
    """Length of each value less the sum of all by their shares."""
    output = [math.fsum(a * x for a, x in zip(shares, column, strict=True)) for column in zip(*values, strict=True)]
    return [math.dist(value, output) for value in values]
