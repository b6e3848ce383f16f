"""DefensiveKV's score (arXiv 2510.13334): the worst case over the window's rows, times the projected value's norm."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lavakv.scoring.blocks import joined
from lavakv.scoring.pooling import average_pool, average_pool_blocks
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow

KERNEL_SIZE = 5
PROTECTED_MASS = 0.9


def defensivekv_score(window: ScoringWindow) -> TieredScores:
    """Worst-case attention times normalised `mean_q ||V W_O||_1`; what makes up 90 % of the attention is protected.

    Needs the budget and the output projection.
    """
    projected = window.projected_norms.mean(dim=1)
    share = projected / projected.sum(dim=1, keepdim=True).clamp(min=torch.finfo(projected.dtype).tiny)
    return TieredScores(defensive_attention(window) * share, _protected(window))


def defensive_attention(window: ScoringWindow) -> Tensor:
    """Group and row maximum of the pooled attention, not below its mean over positions, float32 `[H, n]`."""
    return window.remember("defensive_attention", lambda: _worst_case(window))


def _worst_case(window: ScoringWindow) -> Tensor:
    pooled = _pooled(window)
    seen = torch.stack([block.sum(dim=-1, keepdim=True) for block in window.evictable_blocks()]).sum(dim=0)
    left = torch.stack([block.sum(dim=-1, keepdim=True) for block in pooled()]).sum(dim=0)
    scale = seen / left.clamp(min=torch.finfo(left.dtype).tiny)
    worst = joined((block * scale).amax(dim=(1, 2)) for block in pooled())
    if window.caps is None:
        mean = worst.mean(dim=1, keepdim=True)
    else:
        mean = worst.sum(dim=1, keepdim=True) / window.caps.clamp(min=1)[:, None]
    return torch.maximum(worst, mean)


def _pooled(window: ScoringWindow) -> Callable[[], Iterable[Tensor]]:
    """A function that yields the pooled rows; they are kept where they are one block, else computed at each call."""
    if window.is_one_block:
        kept = [average_pool(block, KERNEL_SIZE, window.places) for block in window.evictable_blocks()]
        return lambda: kept
    return lambda: average_pool_blocks(window.evictable_blocks(), KERNEL_SIZE, window.places)


def _protected(window: ScoringWindow) -> Tensor:
    """Each head's entries of most mean attention that reach 90 % with the window's own, at most `b - w`."""
    assert window.tokens_per_head is not None
    order = window.remember(
        "attention_order", lambda: _group_mean(window).sort(dim=1, descending=True, stable=True).indices
    )
    ordered = _group_mean(window).gather(1, order)
    own = window.remember("own_attention", lambda: _own(window))
    before = ordered.cumsum(dim=1) - ordered
    protected = before < (PROTECTED_MASS - own.double())[:, None]
    protected[:, window.tokens_per_head - window.queries.shape[2] :] = False
    found = torch.zeros_like(protected).scatter(1, order, protected)
    return found if window.empty is None else found & ~window.empty


def _own(window: ScoringWindow) -> Tensor:
    """Attention that the window pays to itself, mean over rows and group, float32 `[H]`."""
    before, parts = window.num_evictable, []
    for block in window.blocks():
        parts.append(block[..., before:].sum(dim=-1))
        before = max(before - block.shape[-1], 0)
    return torch.stack(parts).sum(dim=0).mean(dim=(1, 2))


def _group_mean(window: ScoringWindow) -> Tensor:
    """Mean attention over rows and group, float64 `[H, n]`."""
    return window.mean_attention.mean(dim=1).double()
