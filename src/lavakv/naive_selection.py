"""The truth about selection: from scores to kept positions in plain Python. Tests hold `select` against it."""

from __future__ import annotations

from collections.abc import Sequence

from lavakv.budgets.naive import divide_naive, head_budgets_naive, layer_budgets_naive, pooled_order_naive
from lavakv.policy import Policy

Rows = Sequence[Sequence[float]]


def select_naive(
    policy: Policy, scores: Sequence[Rows], layer_weights: Sequence[float], budget: int, window: int
) -> list[list[list[int]]]:
    """Twin of `select`, one shot.

    Args:
        policy: whose head rule and floor share to use.
        scores: `[layers][kv_heads][n]`.
        layer_weights: weight of each layer; given, since rounding of an entropy may break a tie between layers.
        budget: mean entries a head keeps, window included.
        window: positions behind the scored ones.

    Returns:
        Kept positions, ascending, `[layers][kv_heads][kept]`.
    """
    num_evictable = len(scores[0][0])
    num_heads = [len(layer) for layer in scores]
    if num_evictable + window <= budget:
        return [[list(range(num_evictable + window)) for _ in layer] for layer in scores]
    totals = layer_budgets_naive((budget - window) * sum(num_heads), layer_weights, num_heads, num_evictable)
    return [_select_layer(policy, layer, total, window) for layer, total in zip(scores, totals, strict=True)]


def _select_layer(policy: Policy, scores: Rows, total: int, window: int) -> list[list[int]]:
    num_heads, num_evictable = len(scores), len(scores[0])
    if policy.head_rule == "equal":
        counts = divide_naive(total, [1.0] * num_heads, [num_evictable] * num_heads)
    else:
        counts = head_budgets_naive(scores, total, policy.floor_share)
    order = pooled_order_naive(scores)
    tail = range(num_evictable, num_evictable + window)
    kept = []
    for head, count in enumerate(counts):
        best = [position for owner, position in order if owner == head][:count]
        kept.append([*sorted(best), *tail])
    return kept
