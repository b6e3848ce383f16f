"""DefensiveKV's score (arXiv 2510.13334): the worst case over the window's rows, times the projected value's norm."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.scoring.pooling import average_pool
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow

KERNEL_SIZE = 5
OUTRIGHT_MASS = 0.9


def defensivekv_score(window: ScoringWindow) -> TieredScores:
    """Worst-case attention times normalised `mean_q ||V W_O||_1`; what makes up 90 % of the attention stays outright.

    Needs the budget and the output projection.
    """
    projected = window.projected_norms.mean(dim=1)
    share = projected / projected.sum(dim=1, keepdim=True).clamp(min=torch.finfo(projected.dtype).tiny)
    return TieredScores(defensive_attention(window) * share, _outright(window))


def defensive_attention(window: ScoringWindow) -> Tensor:
    """Group and row maximum of the pooled attention, not below its mean over positions, float32 `[H, n]`."""
    return window.remember("defensive_attention", lambda: _worst_case(window))


def _worst_case(window: ScoringWindow) -> Tensor:
    rows = window.attention[..., : window.num_evictable]
    pooled = average_pool(rows, KERNEL_SIZE)
    tiny = torch.finfo(pooled.dtype).tiny
    pooled = pooled * (rows.sum(dim=-1, keepdim=True) / pooled.sum(dim=-1, keepdim=True).clamp(min=tiny))
    worst = pooled.amax(dim=(1, 2))
    return torch.maximum(worst, worst.mean(dim=1, keepdim=True))


def _outright(window: ScoringWindow) -> Tensor:
    """Each head's entries of most mean attention that reach 90 % with the window's own, at most `b - w`."""
    assert window.tokens_per_head is not None
    attention = window.mean_attention.mean(dim=1)
    own = window.attention[..., window.num_evictable :].sum(dim=-1).mean(dim=(1, 2))
    ordered = attention.double().sort(dim=1, descending=True, stable=True)
    before = ordered.values.cumsum(dim=1) - ordered.values
    wanted = before < (OUTRIGHT_MASS - own.double())[:, None]
    wanted[:, window.tokens_per_head - window.queries.shape[2] :] = False
    return torch.zeros_like(wanted).scatter(1, ordered.indices, wanted)
