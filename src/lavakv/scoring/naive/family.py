"""Reference implementation of the scores by attention and by position, and of their entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lavakv.scoring.naive.window import (
    NaiveWindow,
    Rows,
    attention_row_naive,
    max_pool_naive,
    mean_attention_naive,
    value_norms_naive,
)


def average_pool_naive(row: Sequence[float], kernel_size: int) -> list[float]:
    """Sum of the `kernel_size` neighbours of each entry, zeros beyond the borders, divided by the kernel size."""
    reach = kernel_size // 2
    return [math.fsum(row[max(i - reach, 0) : i + reach + 1]) / kernel_size for i in range(len(row))]


def group_mean_naive(window: NaiveWindow, rows: Sequence[Sequence[float]]) -> list[list[float]]:
    """Means over the query heads of each KV head, `[kv_heads][n]`."""
    means = []
    for head in range(len(window.keys)):
        group = window.group(head)
        means.append([math.fsum(rows[q][i] for q in group) / len(group) for i in range(window.num_evictable)])
    return means


def snapkv_score_naive(window: NaiveWindow) -> list[list[float]]:
    """Reference implementation of `snapkv_score`."""
    return group_mean_naive(window, [max_pool_naive(row, 7) for row in mean_attention_naive(window)])


def variance_naive(window: NaiveWindow) -> list[list[float]]:
    """Unbiased variance over the window of the attention to each evictable position, `[query_heads][n]`."""
    variances, count = [], len(window.queries[0])
    for query_head, means in enumerate(mean_attention_naive(window)):
        rows = [attention_row_naive(window, query_head, row) for row in range(count)]
        squares = [math.fsum((row[i] - mean) ** 2 for row in rows) for i, mean in enumerate(means)]
        variances.append([square / (count - 1) if count > 1 else 0.0 for square in squares])
    return variances


def cake_score_naive(window: NaiveWindow) -> list[list[float]]:
    """Reference implementation of `cake_score`."""
    pairs = zip(mean_attention_naive(window), variance_naive(window), strict=True)
    mixed = [[mean + 200 * variance for mean, variance in zip(*pair, strict=True)] for pair in pairs]
    return group_mean_naive(window, [average_pool_naive(row, 5) for row in mixed])


def cake_layer_weight_naive(window: NaiveWindow) -> float:
    """Reference implementation of `cake_layer_weight`."""
    return attention_spread_naive(window) * math.fsum(x for row in variance_naive(window) for x in row)


def attention_spread_naive(window: NaiveWindow) -> float:
    """Entropy of the attention to evictable positions, summed over rows and query heads."""
    terms: list[float] = []
    for query_head, queries in enumerate(window.queries):
        for row in range(len(queries)):
            attention = attention_row_naive(window, query_head, row)[: window.num_evictable]
            terms.extend(-share * math.log(share) for share in attention if share > 0)
    return math.fsum(terms)


def vatp_score_naive(window: NaiveWindow) -> list[list[float]]:
    """Reference implementation of `vatp_score`."""
    attention, scores = mean_attention_naive(window), []
    for head, norms in enumerate(value_norms_naive(window.values)):
        weighted = [[a * norm for a, norm in zip(attention[q], norms, strict=False)] for q in window.group(head)]
        pooled = [max_pool_naive(row, 7) for row in weighted]
        scores.append([max(row[i] for row in pooled) for i in range(window.num_evictable)])
    return scores


def laprox_score_naive(window: NaiveWindow) -> list[list[float]]:
    """Reference implementation of `laprox_score`."""
    assert window.output_weight is not None
    products = []
    for query_head, (queries, weight) in enumerate(zip(window.queries, window.output_weight, strict=True)):
        rows = [attention_row_naive(window, query_head, row) for row in range(len(queries))]
        norms = [math.sqrt(math.fsum(row[i] ** 2 for row in rows)) for i in range(window.num_evictable)]
        values = window.values[query_head // (len(window.queries) // len(window.keys))]
        lengths = [_length_behind(value, weight) for value in values]
        products.append([x * length for x, length in zip(average_pool_naive(norms, 7), lengths, strict=False)])
    scores = group_mean_naive(window, products)
    total = math.fsum(score for row in scores for score in row) or 1.0
    return [[score / total for score in row] for row in scores]


def _length_behind(vector: Sequence[float], weight: Rows) -> float:
    columns = zip(*weight, strict=True)
    return math.sqrt(
        math.fsum(math.fsum(x * y for x, y in zip(vector, column, strict=True)) ** 2 for column in columns)
    )


def h2o_score_naive(window: NaiveWindow) -> list[list[float]]:
    """Reference implementation of `h2o_score`: every row of the prompt, one after the other."""
    assert window.prompt_queries is not None
    whole = window._replace(queries=window.prompt_queries, visible=window.prompt_visible)
    received = []
    for query_head, queries in enumerate(whole.queries):
        rows = [attention_row_naive(whole, query_head, row) for row in range(len(queries))]
        received.append([math.fsum(row[i] for row in rows) for i in range(window.num_evictable)])
    return group_mean_naive(window, received)


def tova_score_naive(window: NaiveWindow) -> list[list[float]]:
    """Reference implementation of `tova_score`."""
    last = len(window.queries[0]) - 1
    rows = [attention_row_naive(window, query_head, last) for query_head in range(len(window.queries))]
    mean = [math.fsum(row[i] for row in rows) / len(rows) for i in range(window.num_evictable)]
    return [list(mean) for _ in window.keys]


def tova_by_position_naive(heads: Sequence[NaiveWindow], positions: Sequence[Sequence[int]]) -> list[list[float]]:
    """Reference implementation of `tova_score` where heads hold different positions, `[kv_heads][held]`.

    Args:
        heads: windows of one KV head each.
        positions: original positions of each one's candidates.
    """
    paid: dict[int, list[float]] = {}
    for window, held in zip(heads, positions, strict=True):
        for query_head in range(len(window.queries)):
            row = attention_row_naive(window, query_head, len(window.queries[0]) - 1)
            for position, share in zip(held, row, strict=False):
                paid.setdefault(position, []).append(share)
    return [[math.fsum(paid[position]) / len(paid[position]) for position in held] for held in positions]


def streaming_llm_order_naive(num_evictable: int) -> list[int]:
    """Positions in the order `streaming_llm_score` keeps them: the first four, then the latest."""
    first = list(range(min(4, num_evictable)))
    return first + [i for i in reversed(range(num_evictable)) if i not in first]


def lava_score_naive(window: NaiveWindow, kernel_size: int = 7) -> list[list[float]]:
    """LAVa's score, `[kv_heads][n]` (method, steps 2 to 4)."""
    pooled = [max_pool_naive(row, kernel_size) for row in mean_attention_naive(window)]
    evictable = range(window.num_evictable)
    scores = []
    for head, norms in enumerate(value_norms_naive(window.values)):
        largest = max(norms[: window.num_evictable], default=0.0)
        scores.append([largest * max(pooled[query_head][i] for query_head in window.group(head)) for i in evictable])
    return scores


def eviction_loss_naive(window: NaiveWindow) -> list[list[float]]:
    """Increase of the paper's bound when an entry is evicted, `[kv_heads][n]`."""
    attention = mean_attention_naive(window)
    evictable = range(window.num_evictable)
    return [
        [max(norms) * max(attention[query_head][i] for query_head in window.group(head)) for i in evictable]
        for head, norms in enumerate(value_norms_naive(window.values))
    ]


def normalized_entropy_naive(scores: Rows) -> float:
    """Entropy of a layer's scores as a share of its maximum, 0 where nothing is spread (method, step 5)."""
    flat = [score for head in scores for score in head]
    total = math.fsum(flat)
    if len(flat) < 2 or total == 0:
        return 0.0
    shares = [score / total for score in flat if score > 0]
    return -math.fsum(share * math.log(share) for share in shares) / math.log(len(flat))
