"""Reference implementation of `reach`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lavakv.scoring.naive.residual import MIN_NORM, projected_naive
from lavakv.scoring.naive.rotation import unrotated_naive
from lavakv.scoring.naive.window import NaiveWindow, attention_row_naive


def reach_score_naive(window: NaiveWindow) -> list[list[float]]:
    """Reference implementation of `reach_score`."""
    scale = norm_naive(window)
    budget = window.tokens_per_head or len(window.keys[0]) / 8
    scores = []
    for head, largest in enumerate(largest_attention_naive(window)):
        each = math.fsum(largest) / (16 * budget)
        lengths = [deviation_naive(window, head, place) for place in range(len(largest))]
        parts = zip(largest, distinctness_naive(window, head), lengths, strict=True)
        scores.append([max(one, each * own**1.5) * length / scale for one, own, length in parts])
    return scores


def norm_naive(window: NaiveWindow) -> float:
    """Root mean square of the norms of the residual stream that are not zero."""
    assert window.residual_norms is not None
    norms = [norm for norm in window.residual_norms if norm >= MIN_NORM]
    return math.sqrt(math.fsum(norm * norm for norm in norms) / len(norms))


def distinctness_naive(window: NaiveWindow, head: int) -> list[float]:
    """Squared distance of each evictable key to the mean of all keys, over its mean; 1 where all are equal."""
    return _over_their_mean(key_distances_naive(window, head)[: window.num_evictable])


def key_distances_naive(window: NaiveWindow, head: int) -> list[float]:
    """Squared distance of each key to the mean of all keys, before their rotation where it is known."""
    keys = window.keys[head]
    if window.rotation is not None:
        cos, sin, _ = window.rotation
        keys = [unrotated_naive(*parts) for parts in zip(keys, cos, sin, strict=True)]
    means = [math.fsum(channel) / len(channel) for channel in zip(*keys, strict=True)]
    return [math.fsum((x - mean) ** 2 for x, mean in zip(key, means, strict=True)) for key in keys]


def _over_their_mean(distances: Sequence[float]) -> list[float]:
    mean = math.fsum(distances) / max(len(distances), 1)
    return [round(one / mean * 1024) / 1024 if mean else 1.0 for one in distances]


def asked_rows_naive(window: NaiveWindow) -> list[int]:
    """The prompt's rows to ask again: the most distinct of those that are not evenly spread, then the latter."""
    heads = [_over_their_mean(key_distances_naive(window, head)) for head in range(len(window.keys))]
    own = [math.fsum(numbers) / len(heads) for numbers in zip(*heads, strict=True)]
    totals = own if window.earlier is None else [x + y for x, y in zip(own, window.earlier, strict=True)]
    count = len(totals)
    even = [count - 1 - number * count // min(32, count) for number in range(min(32, count))]
    others = sorted(set(range(count)) - set(even), key=lambda row: (-totals[row], row))
    return others[: 128 - len(even)] + even


def deviation_naive(window: NaiveWindow, head: int, place: int) -> float:
    """Root mean square, over the group's query heads, of a value's distance to the head's mean, as `W_O` maps it."""
    assert window.output_weight is not None
    means = [math.fsum(channel) / len(channel) for channel in zip(*window.values[head], strict=True)]
    apart = [value - mean for value, mean in zip(window.values[head][place], means, strict=True)]
    outputs = [projected_naive(apart, window.output_weight[query]) for query in window.group(head)]
    return math.sqrt(math.fsum(out * out for output in outputs for out in output) / len(outputs))


def largest_attention_naive(window: NaiveWindow) -> list[list[float]]:
    """The most that any row asked again, of any query head of the group, pays to each evictable position."""
    largest = []
    for head in range(len(window.keys)):
        rows = [row for query in window.group(head) for row in attention_asked_again_naive(window, query)]
        largest.append([max(row[place] for row in rows) for place in range(window.num_evictable)])
    return largest


def attention_asked_again_naive(window: NaiveWindow, query_head: int) -> list[list[float]]:
    """Attention of the chosen rows' queries at the prompt's last position to every position, `[rows][N]`."""
    assert window.prompt_queries is not None
    assert window.rotation is not None
    cos, sin, _ = window.rotation
    count, places = len(window.keys[0]), asked_rows_naive(window)
    rows = [
        rotated_naive(
            unrotated_naive(window.prompt_queries[query_head][place], cos[place], sin[place]), cos[-1], sin[-1]
        )
        for place in places
    ]
    queries = [rows if head == query_head else [] for head in range(len(window.queries))]
    everything = [[True] * count for _ in rows]
    again = window._replace(queries=queries, visible=everything)
    return [attention_row_naive(again, query_head, row) for row in range(len(rows))]


def rotated_naive(vector: Sequence[float], cos: Sequence[float], sin: Sequence[float]) -> list[float]:
    """A query or key before its rotation, turned: each pair of channels by its angle."""
    half = len(vector) // 2
    pairs = [(vector[i], vector[i + half], cos[i], sin[i]) for i in range(half)]
    return [x * c - y * s for x, y, c, s in pairs] + [y * c + x * s for x, y, c, s in pairs]
