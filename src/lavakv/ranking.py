"""The total order of a layer's entries: tier, then higher score, then lower head, then earlier position."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.order import best_first_order, grouped_order
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
    num_heads, num_entries = values.shape
    tiers = None if outright is None else outright.to(torch.int8)
    order = best_first_order(values, tiers)  # head-major indices, so ties go to the lower head
    heads = _heads(order, num_entries)
    firsts = torch.arange(num_heads, device=values.device)[:, None] * num_entries
    positions = order[grouped_order(heads)].view(num_heads, num_entries) - firsts
    if num_guaranteed:
        tiers = torch.zeros(values.shape, dtype=torch.int8, device=values.device) if tiers is None else tiers
        tiers = tiers.scatter(1, positions[:, :num_guaranteed], 2)
        order = best_first_order(values, tiers)
        heads = _heads(order, num_entries)
    if tiers is not None:
        tiers = tiers.flatten()[order]
    return Ranking(positions, heads, values.flatten()[order], tiers)


def _heads(order: Tensor, num_entries: int) -> Tensor:
    """The head of each flat index."""
    return torch.div(order, max(num_entries, 1), rounding_mode="floor").to(torch.int16)
