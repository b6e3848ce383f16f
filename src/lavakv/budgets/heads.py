"""How a layer's entries are split over its KV heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lavakv.budgets.divide import divide


def pooled_weights(pooled_heads: Tensor, num_heads: int, total: int, floor_share: float) -> Tensor:
    """Unrounded shares of the heads when the layer's entries compete as one pool (method, step 7).

    Args:
        pooled_heads: `[>= total]`, the head of each entry of the layer, best entry first.
        num_heads: KV heads `H`.
        total: entries the layer keeps before the window, `T_l`.
        floor_share: part of the total that is split equally, `alpha`.

    Returns:
        float64 `[H]` that sums to `total`.
    """
    counts = torch.bincount(pooled_heads[:total].long(), minlength=num_heads)
    return (1.0 - floor_share) * counts.double() + floor_share * total / num_heads


def equal_weights(num_heads: int, total: int) -> Tensor:
    """The same share for every head, float64 `[H]`."""
    return torch.full((num_heads,), total / num_heads, dtype=torch.float64)


def head_budgets(weights: Tensor, total: int, num_evictable: int) -> Tensor:
    """Round the heads' shares to int64 `[H]`: sums to `total`, at most `num_evictable` each."""
    return divide(total, weights, torch.full((weights.numel(),), num_evictable, device=weights.device))


def retained_while_trimming(weights: Tensor, num_evictable: int) -> Tensor:
    """Entries a head must keep, in rank order, while the layer's total may still shrink.

    Webster rounding can give a head a few more seats at a smaller total than the share at a larger one says; half of
    the number of heads bounds the difference (method, "Online order").

    Returns:
        int64 `[H]`.
    """
    spare = (weights.numel() + 1) / 2
    return torch.floor(weights + spare).long().clamp(max=num_evictable)


def worst_case_spare(num_heads: int) -> int:
    """Upper bound on what `retained_while_trimming` keeps beyond a layer's total."""
    return num_heads * math.ceil((num_heads + 1) / 2)
