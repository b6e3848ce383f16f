"""Reference implementation of the window's attention, pooling and value norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

Rows = Sequence[Sequence[float]]


class NaiveWindow(NamedTuple):
    """`ScoringWindow` in nested lists: one sequence in one layer.

    Attributes:
        queries: `[query_heads][w][head_dim]`, the last `w` queries; query heads of one KV head stand together.
        keys: `[kv_heads][N][head_dim]`.
        values: `[kv_heads][N][value_dim]`.
        scaling: factor on query-key products.
        softcap: `c` in `c * tanh(x / c)`, or None.
        sinks: `[query_heads]` attention-sink logits, or None.
        visible: `[w][N]`, what each window query sees, or None for causal.
        layer: index of the layer in the model.
        tokens_per_head: the budget `b`, or None.
        output_weight: `[query_heads][value_dim][hidden]`, or None.
        prompt_queries: `[query_heads][N][head_dim]`, or None.
        prompt_visible: `[N][N]`, what each row of the prompt sees, or None for causal.
        residual_norms: `[w]`, L2 norm of the residual stream that each window query is made from, or None.
        earlier: `[N]`, what `reach` says of the prompt's rows, summed over the layers before, or None.
        rotation: cosines and sines of the prompt's rows, `[N][head_dim]` each, and `[head_dim / 2]` radians per
            position, or None.
    """

    queries: Sequence[Rows]
    keys: Sequence[Rows]
    values: Sequence[Rows]
    scaling: float
    softcap: float | None = None
    sinks: Sequence[float] | None = None
    visible: Sequence[Sequence[bool]] | None = None
    layer: int = 0
    tokens_per_head: int | None = None
    output_weight: Sequence[Rows] | None = None
    prompt_queries: Sequence[Rows] | None = None
    prompt_visible: Sequence[Sequence[bool]] | None = None
    residual_norms: Sequence[float] | None = None
    rotation: tuple[Rows, Rows, Sequence[float]] | None = None
    earlier: Sequence[float] | None = None

    @property
    def num_evictable(self) -> int:
        """Positions before the window, `n = N - w`."""
        return len(self.keys[0]) - len(self.queries[0])

    def group(self, head: int) -> range:
        """Query heads that one KV head serves."""
        size = len(self.queries) // len(self.keys)
        return range(head * size, (head + 1) * size)


def attention_row_naive(window: NaiveWindow, query_head: int, row: int) -> list[float]:
    """Attention of one window query to each of the `N` positions; the rest, if any, goes to the sink."""
    keys = window.keys[query_head // (len(window.queries) // len(window.keys))]
    logits = []
    for position, key in enumerate(keys):
        logit = window.scaling * math.fsum(q * k for q, k in zip(window.queries[query_head][row], key, strict=True))
        if window.softcap is not None:
            logit = window.softcap * math.tanh(logit / window.softcap)
        causal = position <= window.num_evictable + row
        seen = causal if window.visible is None else window.visible[row][position]
        logits.append(logit if seen else -math.inf)
    everything = logits if window.sinks is None else [*logits, window.sinks[query_head]]
    largest = max(everything)
    denominator = math.fsum(math.exp(logit - largest) for logit in everything)
    return [math.exp(logit - largest) / denominator for logit in logits]


def mean_attention_naive(window: NaiveWindow) -> list[list[float]]:
    """Mean over the window of the attention to each evictable position, `[query_heads][n]` (method, step 1)."""
    means = []
    for query_head, queries in enumerate(window.queries):
        rows = [attention_row_naive(window, query_head, row) for row in range(len(queries))]
        means.append([math.fsum(row[i] for row in rows) / len(rows) for i in range(window.num_evictable)])
    return means


def max_pool_naive(row: Sequence[float], kernel_size: int) -> list[float]:
    """Largest of the `kernel_size` neighbours of each entry, fewer at the borders (method, step 2)."""
    reach = kernel_size // 2
    return [max(row[max(i - reach, 0) : i + reach + 1]) for i in range(len(row))]


def value_norms_naive(values: Sequence[Rows]) -> list[list[float]]:
    """L1 norm of every value vector, `[kv_heads][N]`."""
    return [[math.fsum(abs(x) for x in vector) for vector in head] for head in values]
