"""Exact division of seats by Webster's divisor method, as tensor operations without a host sync."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.errors import BudgetError


def divide(total: int, weights: Tensor, caps: Tensor) -> Tensor:
    """Split `total` into integer parts in proportion to `weights`, none above its cap.

    Webster / Sainte-Laguë: seats go one by one to the largest `weight / (2 * seats + 1)` among the parts below their
    cap, ties to the lower index. Parts of weight zero get what the others cannot take, as if their weights were equal.
    The method is monotone: a further part or a smaller total never raises anyone's share.

    Args:
        total: seats to hand out, at most `caps.sum()`.
        weights: float `[parts]`, finite and not negative.
        caps: int64 `[parts]`.

    Returns:
        int64 `[parts]` that sums to `total`.

    Raises:
        BudgetError: `total` is negative or larger than the caps allow (checked on CPU only: elsewhere it would sync).
    """
    if caps.device.type == "cpu" and not 0 <= total <= int(caps.sum()):
        raise BudgetError(
            "total",
            expected=f"between 0 and the sum of the caps, {int(caps.sum())}",
            got=str(total),
            fix="Ask for at most as many entries as there are.",
        )
    weights = weights.double()
    if caps.device.type == "cpu" and bool((weights == weights[:1]).all() & (caps == caps[:1]).all()):
        return _evenly(total, caps)
    weighted = weights > 0
    if caps.device.type == "cpu" and bool(weighted.all()):
        return _webster(torch.tensor(total), weights, caps)
    first_caps = torch.where(weighted, caps, torch.zeros_like(caps))
    first_total = first_caps.sum().clamp(max=total)
    first = _webster(first_total, weights, first_caps)
    rest = _webster(total - first_total, (~weighted).double(), caps - first_caps)
    return first + rest


def _evenly(total: int, caps: Tensor) -> Tensor:
    """Seats of parts that differ in nothing."""
    num_parts = caps.numel()
    order = torch.arange(num_parts)
    return total // num_parts + (order < total % num_parts).long() if num_parts else order


def _webster(total: Tensor, weights: Tensor, caps: Tensor) -> Tensor:
    """Webster seats where every part with a positive cap has a positive weight.

    Rounding the real-valued shares misses each part's final seats by at most half the number of parts, so a narrow band
    of candidate seats around them is ranked at once instead of handing out seats one by one.
    """
    num_parts = weights.numel()
    base = (torch.floor(_shares(total, weights, caps) - 0.5) - num_parts // 2 - 1).clamp(min=0).long()
    seats = base[:, None] + torch.arange(num_parts + 6, device=weights.device)
    quotients = weights[:, None] / (2 * seats + 1)
    quotients = torch.where(seats < caps[:, None], quotients, torch.full_like(quotients, -1.0))
    order = quotients.flatten().sort(descending=True, stable=True).indices
    won = (torch.arange(order.numel(), device=weights.device) < total - base.sum()).long()
    return base.scatter_add(0, order // seats.shape[1], won)


def _shares(total: Tensor, weights: Tensor, caps: Tensor) -> Tensor:
    """Real-valued shares `min(cap, weight * t)` that sum to `total`, float64 `[parts]`."""
    limits = caps.double()
    fills_at = torch.where(weights > 0, limits / weights, torch.full_like(weights, torch.inf))
    order = fills_at.argsort()
    filled = torch.cumsum(limits[order], 0) - limits[order]
    open_weight = weights[order].flip(0).cumsum(0).flip(0)
    level = (total - filled) / open_weight
    fits = level <= fills_at[order]
    first = torch.where(fits.any(), level[fits.long().argmax()], torch.full_like(level[0], torch.inf))
    return torch.minimum(limits, torch.nan_to_num(weights * first, nan=0.0))
