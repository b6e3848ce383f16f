"""The total order of a layer's entries: tier, then higher score, then lower head, then earlier position."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.scoring.tiers import TieredScores


class Ranking(NamedTuple):
    """A layer's entries, best first.

    Attributes:
        positions: int64 `[H, n]`, each head's positions by rank.
        pooled_heads: int16 `[H * n]`, the head of each entry when all heads compete.
        pooled_scores: `[H * n]`, the score of each of these.
        pooled_tiers: int8 `[H * n]`, their tiers: 2 guaranteed, 1 kept outright, 0 the others; None where all are 0.
    """

    positions: Tensor
    pooled_heads: Tensor
    pooled_scores: Tensor
    pooled_tiers: Tensor | None = None


def rank(score: Tensor | TieredScores, num_guaranteed: int = 0) -> Ranking:
    """Order the entries of one layer of one sequence.

    Args:
        score: `[H, n]`, higher is kept longer; or such scores in two tiers.
        num_guaranteed: entries that every head keeps before heads compete.
    """
    values, outright = score if isinstance(score, TieredScores) else (score, None)
    positions = values.sort(dim=1, descending=True, stable=True).indices
    if outright is not None:
        positions = positions.gather(1, _tiers_first(outright.gather(1, positions)))
    pooled = values.flatten().sort(descending=True, stable=True)  # head-major, so ties go to the lower head
    order, tiers = pooled.indices, None
    if outright is not None or num_guaranteed:
        tiers = torch.zeros(values.shape, dtype=torch.int8, device=values.device)
        if outright is not None:
            tiers += outright
        tiers.scatter_(1, positions[:, :num_guaranteed], 2)
        tiers = tiers.flatten()
        order = order[_tiers_first(tiers[order])]
        tiers = tiers[order]
    heads = torch.div(order, max(values.shape[1], 1), rounding_mode="floor").to(torch.int16)
    return Ranking(positions, heads, pooled.values if tiers is None else values.flatten()[order], tiers)


def _tiers_first(tiers: Tensor) -> Tensor:
    """Stable order of the last axis, higher tiers first."""
    return tiers.to(torch.int8).sort(dim=-1, descending=True, stable=True).indices
