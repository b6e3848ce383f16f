"""The truth about budgets, one seat at a time. Slow on purpose: tests hold the fast functions against it."""

from __future__ import annotations

from collections.abc import Sequence


def divide_naive(total: int, weights: Sequence[float], caps: Sequence[int]) -> list[int]:
    """Twin of `divide`: hand out `total` seats one by one by Webster's rule."""
    seats = [0] * len(weights)
    for _ in range(total):
        open_parts = [i for i in range(len(weights)) if seats[i] < caps[i]]
        all_zero = all(weights[i] == 0 for i in open_parts)
        seats[max(open_parts, key=lambda i: ((1.0 if all_zero else weights[i]) / (2 * seats[i] + 1), -i))] += 1
    return seats


def head_budgets_naive(scores: Sequence[Sequence[float]], total: int, floor_share: float) -> list[int]:
    """Twin of `pooled_head_budgets`: count each head's entries among the layer's `total` best, then divide."""
    num_heads, num_evictable = len(scores), len(scores[0])
    order = sorted(
        ((h, i) for h in range(num_heads) for i in range(num_evictable)), key=lambda e: (-scores[e[0]][e[1]], *e)
    )
    counts = [sum(1 for h, _ in order[:total] if h == head) for head in range(num_heads)]
    weights = [(1 - floor_share) * count + floor_share * total / num_heads for count in counts]
    return divide_naive(total, weights, [num_evictable] * num_heads)
