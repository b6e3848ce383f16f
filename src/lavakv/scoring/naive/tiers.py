"""Reference implementation of the scores in two tiers, by keys and of noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lavakv.scoring.naive.family import average_pool_naive, group_mean_naive, snapkv_score_naive
from lavakv.scoring.naive.window import NaiveWindow, Rows, attention_row_naive, mean_attention_naive


def projected_norms_naive(window: NaiveWindow) -> list[list[float]]:
    """Group mean of the L1 norm of each evictable value after the output projection, `[kv_heads][n]`."""
    assert window.output_weight is not None
    norms = []
    for query_head, weight in enumerate(window.output_weight):
        values = window.values[query_head // (len(window.queries) // len(window.keys))]
        norms.append([_projected_norm(values[i], weight) for i in range(window.num_evictable)])
    return group_mean_naive(window, norms)


def _projected_norm(value: Sequence[float], weight: Rows) -> float:
    outputs = [math.fsum(x * row[o] for x, row in zip(value, weight, strict=True)) for o in range(len(weight[0]))]
    return math.fsum(abs(output) for output in outputs)


def best_first_naive(scores: Rows, count: int) -> list[list[bool]]:
    """Reference implementation of `best_first` for one count of all heads."""
    marked = []
    for row in scores:
        best = sorted(range(len(row)), key=lambda i: (-row[i], i))[:count]
        marked.append([i in best for i in range(len(row))])
    return marked


def criticalkv_score_naive(window: NaiveWindow) -> tuple[list[list[float]], int]:
    """Reference implementation of `criticalkv_score`: values, and how many entries each head protects."""
    assert window.tokens_per_head is not None
    pairs = zip(snapkv_score_naive(window), projected_norms_naive(window), strict=True)
    values = [[(score + 1e-4) * norm for score, norm in zip(*pair, strict=True)] for pair in pairs]
    return values, (window.tokens_per_head - len(window.queries[0])) // 2


def defensive_attention_naive(window: NaiveWindow) -> list[list[float]]:
    """Reference implementation of `defensive_attention`."""
    worst = []
    for head in range(len(window.keys)):
        rows = [row for query_head in window.group(head) for row in _pooled_rows(window, query_head)]
        largest = [max(row[i] for row in rows) for i in range(window.num_evictable)]
        mean = math.fsum(largest) / max(len(largest), 1)
        worst.append([max(share, mean) for share in largest])
    return worst


def _pooled_rows(window: NaiveWindow, query_head: int) -> list[list[float]]:
    """The window's rows, pooled and brought back to their sums."""
    pooled = []
    for row in range(len(window.queries[0])):
        attention = attention_row_naive(window, query_head, row)[: window.num_evictable]
        smooth = average_pool_naive(attention, 5)
        total = math.fsum(smooth)
        pooled.append([x * math.fsum(attention) / total if total > 0 else 0.0 for x in smooth])
    return pooled


def defensivekv_score_naive(window: NaiveWindow) -> list[list[float]]:
    """Reference implementation of the values of `defensivekv_score`."""
    scores = []
    for attention, norms in zip(defensive_attention_naive(window), projected_norms_naive(window), strict=True):
        total = math.fsum(norms)
        scores.append([a * norm / total if total > 0 else 0.0 for a, norm in zip(attention, norms, strict=True)])
    return scores


def protected_mass_naive(window: NaiveWindow) -> list[tuple[list[float], float]]:
    """For each KV head its mean attention, and how much of it is protected: 0.9 less the window's share."""
    masses, count = [], len(window.queries[0])
    for head, attention in enumerate(group_mean_naive(window, mean_attention_naive(window))):
        rows = [attention_row_naive(window, q, row) for q in window.group(head) for row in range(count)]
        own = math.fsum(share for row in rows for share in row[window.num_evictable :]) / len(rows)
        masses.append((attention, 0.9 - own))
    return masses


def knorm_score_naive(window: NaiveWindow) -> list[list[float]]:
    """Reference implementation of `knorm_score`."""
    return [[-math.hypot(*key) for key in head[: window.num_evictable]] for head in window.keys]


def keydiff_score_naive(window: NaiveWindow) -> list[list[float]]:
    """Reference implementation of `keydiff_score`; a key or anchor of length zero has the cosine 0."""
    scores = []
    for head in window.keys:
        unit = [[x / (math.hypot(*key) or 1.0) for x in key] for key in head]
        anchor = [math.fsum(column) / len(head) for column in zip(*unit, strict=True)]
        length = math.hypot(*anchor) or 1.0
        cosines = [math.fsum(x * y for x, y in zip(key, anchor, strict=True)) / length for key in unit]
        scores.append([-cosine for cosine in cosines[: window.num_evictable]])
    return scores


def random_score_naive(seed: int, layer: int, head: int, position: int) -> float:
    """Reference implementation of one entry of `random_score`."""
    return hashed_noise_naive((seed, layer, head, position))


def hashed_noise_naive(parts: Sequence[int]) -> float:
    """Reference implementation of `hashed_noise`."""
    state = 0
    for part in parts:
        state = (state * 31 + part + 1) % 2**32
        state = ((state ^ (state >> 16)) * 0x7FEB352D) % 2**32
        state = ((state ^ (state >> 15)) * 0x846CA68B) % 2**32
        state ^= state >> 16
    return (state >> 8) / 2**24
