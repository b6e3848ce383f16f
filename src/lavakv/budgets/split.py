"""How a sequence's entries are split over the layers, and a layer's over its KV heads."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor

from lavakv.budgets.divide import capped_shares, divide

_FLOOR_STEPS = 10**6
_STEEPNESS = 20


def layer_budgets(total: int, weights: Tensor, caps: Sequence[int]) -> Tensor:
    """Split a sequence's evictable total over the layers known so far (method, step 6).

    Args:
        total: entries to keep before the window, over all heads and layers, `T`.
        weights: float64 `[layers]`, entropy or another layer weight.
        caps: candidates of each of these layers, over its heads.

    Returns:
        int64 `[layers]`, at most `caps` each; sums to `total` unless the layers cannot hold it.
    """
    return divide(min(total, sum(caps)), weights, torch.tensor(caps, device=weights.device))


def pyramid_weights(mean_entries: int, candidates_per_head: int, num_heads: Sequence[int]) -> list[float]:
    """PyramidKV's layer totals (arXiv 2406.02069), up to a factor.

    Whole numbers, in units of `1 / (20 * (layers - 1))` entries: early layers get more, late ones less, in a line.

    Args:
        mean_entries: mean entries a head keeps before the window, `m = b - w`.
        candidates_per_head: what the first layer holds for a head on average before the window, `n` in a prompt.
        num_heads: KV heads of each layer.
    """
    gaps = len(num_heads) - 1
    if gaps == 0:
        return [float(mean_entries * num_heads[0])]
    first, last = (2 * _STEEPNESS - 1) * mean_entries, mean_entries
    if first > _STEEPNESS * candidates_per_head:
        first, last = _STEEPNESS * candidates_per_head, _STEEPNESS * (2 * mean_entries - candidates_per_head)
    return [float((first * gaps - (first - last) * index) * heads) for index, heads in enumerate(num_heads)]


def pooled_weights(pooled_heads: Tensor, num_heads: int, total: int, floor_share: float) -> Tensor:
    """What the heads' shares are in proportion to when the layer's entries compete as one pool (method, step 7).

    Whole numbers, so that equal quotients are equal in floating point and ties go where they should.

    Args:
        pooled_heads: `[>= total]`, the head of each entry of the layer, best entry first.
        num_heads: KV heads `H`.
        total: entries the layer keeps before the window, `T_l`.
        floor_share: part of the total that is split equally, `alpha`; taken to six decimals.

    Returns:
        float64 `[H]`, integer-valued.
    """
    counts = torch.bincount(pooled_heads[:total].long(), minlength=num_heads)
    floor = _fraction(floor_share)
    weights = (floor.denominator - floor.numerator) * num_heads * counts + floor.numerator * total
    return weights.double()


@cache
def _fraction(floor_share: float) -> Fraction:
    return Fraction(floor_share).limit_denominator(_FLOOR_STEPS)


def equal_weights(num_heads: int) -> Tensor:
    """The same for every head, float64 `[H]`."""
    return torch.ones(num_heads, dtype=torch.float64, device="cpu")


def head_budgets(weights: Tensor, total: int | Tensor, caps: Tensor) -> Tensor:
    """Divide a layer's total over its heads by weight; or, with one more axis in front, those of several layers.

    Args:
        weights: float64 `[..., H]`, what the shares are in proportion to.
        total: entries to divide, at most `caps.sum()`; or int64 `[...]`.
        caps: int64 `[..., H]`, candidates of each head.

    Returns:
        int64 `[..., H]`: sums to `total`, at most `caps` each.
    """
    return divide(total, weights, caps)


def retained_while_trimming(weights: Tensor, total: int, caps: Tensor) -> Tensor:
    """Entries a head must keep, in rank order, while the layer's total may still shrink.

    Webster rounding can give a head a few more seats at a smaller total than the share at a larger one says; half of
    the number of heads bounds the difference (method, "Online order"). Where heads have unequally many candidates, a
    full head hands its surplus to the others: the share is then the one under these caps.

    Args:
        weights: float64 `[H]`.
        total: entries the layer keeps by what is known now.
        caps: int64 `[H]`, candidates of each head.

    Returns:
        int64 `[H]`, at most `caps` each.
    """
    spare = (weights.numel() + 1) / 2
    return torch.minimum(torch.floor(shares(weights, total, caps) + spare).long(), caps)


def shares(weights: Tensor, total: int, caps: Tensor) -> Tensor:
    """Unrounded parts of a total, none above its cap, float64 `[H]` on the CPU; they grow with the total."""
    plain = weights * (total / weights.sum().clamp(min=1.0))
    if bool((plain <= caps).all()):
        return plain
    return capped_shares(torch.tensor(total, device=weights.device), weights, caps)
