"""Reference implementation of selection, from scores to kept positions, and of merging over ranks; plain Python."""

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
from lavakv.policy.rules import Policy


def select_naive(
    policy: Policy,
    scores: Sequence[Scores],
    layer_weights: Sequence[float],
    budget: int,
    window: int,
    protected: Sequence[Sequence[Sequence[bool]]] | None = None,
    num_places: Sequence[int] | None = None,
) -> list[list[list[int]]]:
    """Twin of `select`, one shot.

    Args:
        policy: whose rules and floor share to use.
        scores: `[layers][kv_heads][n]`, of candidates only: heads may have unequally many.
        layer_weights: weight of each layer; given, since rounding of an entropy may break a tie between layers.
        budget: mean entries a head keeps, window included.
        window: positions behind the scored ones.
        protected: `[layers][kv_heads][n]`, what is kept before the others, or None for nothing.
        num_places: places before the window in each layer; None where they are as many as the candidates of a head.

    Returns:
        Kept positions, ascending, `[layers][kv_heads][kept]`.
    """
    num_heads, caps = [len(layer) for layer in scores], [[len(row) for row in layer] for layer in scores]
    places = [max(layer) for layer in caps] if num_places is None else num_places
    total = (budget - window) * sum(num_heads)
    if sum(map(sum, caps)) <= total:
        return [
            _kept_rows([list(range(cap)) for cap in layer], n, window) for layer, n in zip(caps, places, strict=True)
        ]
    least = int(policy.floor_share * (budget - window)) if policy.layer_rule == "pool" else 0
    marks = [None] * len(scores) if protected is None else protected
    layers = [(layer, tiers_naive(layer, mark, least)) for layer, mark in zip(scores, marks, strict=True)]
    if policy.layer_rule == "pool":
        counts = pool_counts_naive(layers, total)
    else:
        totals = layer_budgets_naive(total, layer_weights, [sum(layer) for layer in caps])
        counts = [_head_counts(policy, *layer, share) for layer, share in zip(layers, totals, strict=True)]
    return [_kept_rows(_best(*layer, count), n, window) for layer, count, n in zip(layers, counts, places, strict=True)]


def merge_candidates_naive(parts: Sequence[Sequence[tuple[int, float, int]]]) -> list[tuple[int, float, int]]:
    """Twin of `merge_candidates`: (tier, score, head) of each rank's candidates, best first, in the layer's order."""
    return sorted((entry for part in parts for entry in part), key=lambda entry: (-entry[0], -entry[1], entry[2]))


def _head_counts(policy: Policy, scores: Scores, tiers: Tiers, total: int) -> list[int]:
    if policy.head_rule == "equal":
        return divide_naive(total, [1.0] * len(scores), [len(row) for row in scores])
    return head_budgets_naive(scores, total, policy.floor_share, tiers)


def _best(scores: Scores, tiers: Tiers, counts: Sequence[int]) -> list[list[int]]:
    """Each head's `counts[h]` first places by rank, in order of place."""
    ranked = [pooled_order_naive([row], [tier]) for row, tier in zip(scores, tiers, strict=True)]
    return [sorted(place for _, place in row[:count]) for row, count in zip(ranked, counts, strict=True)]


def _kept_rows(rows: Sequence[list[int]], num_places: int, window: int) -> list[list[int]]:
    return [[*row, *range(num_places, num_places + window)] for row in rows]
