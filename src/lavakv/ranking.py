"""The total order of a layer's entries: higher score, then lower head, then earlier position."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Ranking(NamedTuple):
    """A layer's entries, best first.

    Attributes:
        positions: int64 `[H, n]`, each head's positions by rank.
        pooled_heads: int16 `[H * n]`, the head of each entry when all heads compete.
    """

    positions: Tensor
    pooled_heads: Tensor


def rank(score: Tensor) -> Ranking:
    """Order the entries of one layer of one sequence.

    Args:
        score: `[H, n]`, higher is kept longer.
    """
    positions = score.sort(dim=1, descending=True, stable=True).indices
    pooled = score.flatten().sort(descending=True, stable=True).indices  # head-major, so ties go to the lower head
    return Ranking(positions, torch.div(pooled, max(score.shape[1], 1), rounding_mode="floor").to(torch.int16))
