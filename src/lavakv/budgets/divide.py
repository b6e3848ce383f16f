"""Exact division of seats by Webster's divisor method, as tensor operations without a host sync."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.errors import BudgetError


def divide(total: int | Tensor, weights: Tensor, caps: Tensor) -> Tensor:
    """Split `total` into integer parts in proportion to `weights`, none above its cap.

    Webster / Sainte-Laguë: seats go one by one to the largest `weight / (2 * seats + 1)` among the parts below their
    cap, ties to the lower index. Parts of weight zero get what the others cannot take, as if their weights were equal.
    The method is monotone: a further part or a smaller total never raises anyone's share.

    Args:
        total: seats to hand out, at most `caps.sum()`; or int64 `[...]` for as many splits at once.
        weights: float `[..., parts]`, finite and not negative.
        caps: int64 `[..., parts]`.

    Returns:
        int64 `[..., parts]` that sums to `total`.

    Raises:
        BudgetError: `total` is negative or larger than the caps allow (checked on CPU only: elsewhere it would sync).
    """
    total = torch.as_tensor(total, device=weights.device)
    weights, caps = weights.double(), caps.expand(weights.shape)
    on_cpu = caps.device.type == "cpu"
    if on_cpu:
        _check(total, caps)
        if bool((weights == weights[..., :1]).all() & (caps == caps[..., :1]).all()):
            return _evenly(total, caps)
    weighted = weights > 0
    if on_cpu and bool(weighted.all()):
        return _webster(total, weights, caps)
    first_caps = torch.where(weighted, caps, torch.zeros_like(caps))
    first_total = torch.minimum(first_caps.sum(dim=-1), total)
    first = _webster(first_total, weights, first_caps)
    rest = _webster(total - first_total, (~weighted).double(), caps - first_caps)
    return first + rest


def _check(total: Tensor, caps: Tensor) -> None:
    most = caps.sum(dim=-1)
    if bool(((total < 0) | (total > most)).any()):
        raise BudgetError(
            "total",
            expected=f"between 0 and the sum of the caps, {most.tolist()}",
            got=str(total.tolist()),
            fix="Ask for at most as many entries as there are.",
        )


def _evenly(total: Tensor, caps: Tensor) -> Tensor:
    """Seats of parts that differ in nothing."""
    num_parts = caps.shape[-1]
    order = torch.arange(num_parts, device=caps.device)
    return (total // max(num_parts, 1))[..., None] + (order < (total % max(num_parts, 1))[..., None]).long()


def _webster(total: Tensor, weights: Tensor, caps: Tensor) -> Tensor:
    """Webster seats where every part with a positive cap has a positive weight.

    Rounding the real-valued shares misses each part's final seats by at most half the number of parts, so a narrow band
    of candidate seats around them is ranked at once instead of handing out seats one by one.
    """
    num_parts = weights.shape[-1]
    base = (torch.floor(capped_shares(total, weights, caps) - 0.5) - num_parts // 2 - 1).clamp(min=0).long()
    seats = base[..., None] + torch.arange(num_parts + 6, device=weights.device)
    quotients = weights[..., None] / (2 * seats + 1)
    quotients = torch.where(seats < caps[..., None], quotients, torch.full_like(quotients, -1.0))
    order = quotients.flatten(-2).sort(descending=True, stable=True).indices
    left = total - base.sum(dim=-1)
    won = (torch.arange(order.shape[-1], device=weights.device) < left[..., None]).long()
    return base.scatter_add(-1, order // seats.shape[-1], won)


def capped_shares(total: Tensor, weights: Tensor, caps: Tensor) -> Tensor:
    """Real-valued shares `min(cap, weight * t)` that sum to `total`, with one `t` for all, float64 `[..., parts]`."""
    limits = caps.double()
    fills_at = torch.where(weights > 0, limits / weights, torch.full_like(weights, torch.inf))
    fills_at, order = fills_at.sort()
    in_order = limits.gather(-1, order)
    filled = in_order.cumsum(-1) - in_order
    open_weight = weights.gather(-1, order).flip(-1).cumsum(-1).flip(-1)
    level = (total[..., None] - filled) / open_weight
    fits = level <= fills_at
    first = level.gather(-1, fits.long().argmax(-1, keepdim=True))
    first = torch.where(fits.any(-1, keepdim=True), first, torch.full_like(first, torch.inf))
    return torch.minimum(limits, torch.nan_to_num(weights * first, nan=0.0))
