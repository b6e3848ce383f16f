"""The truth about selection: from scores to kept positions in plain Python. Tests hold `select` against it."""

from __future__ import annotations

from collections.abc import Sequence

from lavakv.budgets.naive import (
    Scores,
    Tiers,
    divide_naive,
    head_budgets_naive,
    layer_budgets_naive,
    pool_counts_naive,
    pooled_order_naive,
    tiers_naive,
)
from lavakv.policy import Policy


def select_naive(
    policy: Policy,
    scores: Sequence[Scores],
    layer_weights: Sequence[float],
    budget: int,
    window: int,
    outright: Sequence[Sequence[Sequence[bool]]] | None = None,
) -> list[list[list[int]]]:
    """Twin of `select`, one shot.

    Args:
        policy: whose rules and floor share to use.
        scores: `[layers][kv_heads][n]`.
        layer_weights: weight of each layer; given, since rounding of an entropy may break a tie between layers.
        budget: mean entries a head keeps, window included.
        window: positions behind the scored ones.
        outright: `[layers][kv_heads][n]`, what is kept before the others, or None for nothing.

    Returns:
        Kept positions, ascending, `[layers][kv_heads][kept]`.
    """
    num_evictable, num_heads = len(scores[0][0]), [len(layer) for layer in scores]
    if num_evictable + window <= budget:
        return [[list(range(num_evictable + window)) for _ in layer] for layer in scores]
    total = (budget - window) * sum(num_heads)
    guaranteed = int(policy.floor_share * (budget - window)) if policy.layer_rule == "pool" else 0
    marks = [None] * len(scores) if outright is None else outright
    layers = [(layer, tiers_naive(layer, mark, guaranteed)) for layer, mark in zip(scores, marks, strict=True)]
    if policy.layer_rule == "pool":
        counts = pool_counts_naive(layers, total)
    else:
        totals = layer_budgets_naive(total, layer_weights, [num_evictable * heads for heads in num_heads])
        counts = [_head_counts(policy, *layer, share) for layer, share in zip(layers, totals, strict=True)]
    return [_kept(*layer, count, window) for layer, count in zip(layers, counts, strict=True)]


def _head_counts(policy: Policy, scores: Scores, tiers: Tiers, total: int) -> list[int]:
    if policy.head_rule == "equal":
        return divide_naive(total, [1.0] * len(scores), [len(scores[0])] * len(scores))
    return head_budgets_naive(scores, total, policy.floor_share, tiers)


def _kept(scores: Scores, tiers: Tiers, counts: Sequence[int], window: int) -> list[list[int]]:
    tail = range(len(scores[0]), len(scores[0]) + window)
    kept = []
    for head, count in enumerate(counts):
        best = [position for _, position in pooled_order_naive([scores[head]], [tiers[head]])][:count]
        kept.append([*sorted(best), *tail])
    return kept
