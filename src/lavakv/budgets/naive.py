"""Reference implementation of the budgets, one seat at a time; slow on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

Scores = Sequence[Sequence[float]]
Tiers = Sequence[Sequence[int]]


def divide_naive(total: int, weights: Sequence[float | Fraction], caps: Sequence[int]) -> list[int]:
    """Twin of `divide`: hand out `total` seats one by one by Webster's rule."""
    seats = [0] * len(weights)
    for _ in range(total):
        open_parts = [i for i in range(len(weights)) if seats[i] < caps[i]]
        all_zero = all(weights[i] == 0 for i in open_parts)
        seats[max(open_parts, key=lambda i: ((1 if all_zero else weights[i]) / (2 * seats[i] + 1), -i))] += 1
    return seats


def tiers_naive(
    scores: Scores, protected: Sequence[Sequence[bool]] | None, min_entries_per_head: int
) -> list[list[int]]:
    """Tier of each entry: 2 for a head's first `min_entries_per_head`, 1 for what is protected, else 0."""
    marks = [[False] * len(row) for row in scores] if protected is None else protected
    return [_tiers_of_head(row, mark, min_entries_per_head) for row, mark in zip(scores, marks, strict=True)]


def _tiers_of_head(row: Sequence[float], protected: Sequence[bool], min_entries_per_head: int) -> list[int]:
    order = sorted(range(len(row)), key=lambda i: (not protected[i], -row[i], i))
    return [2 if i in order[:min_entries_per_head] else int(protected[i]) for i in range(len(row))]


def pooled_order_naive(scores: Scores, tiers: Tiers | None = None) -> list[tuple[int, int]]:
    """A layer's entries as (head, position), best first: tier, then higher score, lower head, earlier position."""
    entries = [(head, position) for head, row in enumerate(scores) for position in range(len(row))]
    return sorted(entries, key=lambda e: (0 if tiers is None else -tiers[e[0]][e[1]], -scores[e[0]][e[1]], *e))


def head_budgets_naive(scores: Scores, total: int, floor_share: float, tiers: Tiers | None = None) -> list[int]:
    """Twin of `pooled_weights` and `head_budgets`: count each head's entries among the `total` best, then divide."""
    num_heads = len(scores)
    winners = [head for head, _ in pooled_order_naive(scores, tiers)[:total]]
    floor = Fraction(str(floor_share))
    weights = [(1 - floor) * winners.count(head) + floor * total / num_heads for head in range(num_heads)]
    return divide_naive(total, weights, [len(row) for row in scores])


def layer_budgets_naive(total: int, weights: Sequence[float], caps: Sequence[int]) -> list[int]:
    """Twin of `layer_budgets`: divide what there is to keep, at most every candidate of a layer."""
    return divide_naive(min(total, sum(caps)), weights, caps)


def pyramid_weights_naive(mean_entries: int, candidates_per_head: int, num_heads: Sequence[int]) -> list[Fraction]:
    """Twin of `pyramid_weights`, in entries: the mean at the middle layer, as far above it first as below it last."""
    steepest = min(Fraction(19, 20) * mean_entries, Fraction(candidates_per_head - mean_entries))
    middle = Fraction(len(num_heads) - 1, 2)
    lifts = [(middle - layer) / middle if middle else Fraction(0) for layer in range(len(num_heads))]
    return [heads * (mean_entries + steepest * lift) for heads, lift in zip(num_heads, lifts, strict=True)]


def pool_counts_naive(layers: Sequence[tuple[Scores, Tiers]], size: int) -> list[list[int]]:
    """Twin of `Pool`: the `size` best entries of all layers, counted, `[layers][heads]`; ties to the earlier layer."""
    entries = [
        (-tiers[head][position], -score, layer, head, position)
        for layer, (scores, tiers) in enumerate(layers)
        for head, row in enumerate(scores)
        for position, score in enumerate(row)
    ]
    winners = [(layer, head) for _, _, layer, head, _ in sorted(entries)[:size]]
    return [[winners.count((layer, head)) for head in range(len(scores))] for layer, (scores, _) in enumerate(layers)]
