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


def pooled_order_naive(scores: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """A layer's entries as (head, position), best first: higher score, then lower head, then earlier position."""
    entries = [(head, position) for head, row in enumerate(scores) for position in range(len(row))]
    return sorted(entries, key=lambda entry: (-scores[entry[0]][entry[1]], *entry))


def head_budgets_naive(scores: Sequence[Sequence[float]], total: int, floor_share: float) -> list[int]:
    """Twin of `pooled_weights` and `head_budgets`: count each head's entries among the `total` best, then divide."""
    num_heads, num_evictable = len(scores), len(scores[0])
    winners = [head for head, _ in pooled_order_naive(scores)[:total]]
    weights = [(1 - floor_share) * winners.count(head) + floor_share * total / num_heads for head in range(num_heads)]
    return divide_naive(total, weights, [num_evictable] * num_heads)


def layer_budgets_naive(
    total: int, weights: Sequence[float], num_heads: Sequence[int], num_evictable: int
) -> list[int]:
    """Twin of `layer_budgets`: divide what there is to keep, at most every entry of a layer."""
    caps = [num_evictable * heads for heads in num_heads]
    return divide_naive(min(total, sum(caps)), weights, caps)
