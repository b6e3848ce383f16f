"""Means over entries that belong together, wherever they lie, without waiting for a CUDA device."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_by_group(numbers: Tensor, groups: Tensor) -> Tensor:
    """The mean of all numbers of the same group, each in its place.

    Args:
        numbers: `[H, n]`, any float dtype.
        groups: int64 `[H, n]`, any numbers that name the groups.
    """
    ordered, order = groups.flatten().sort()
    found = torch.zeros_like(order)
    found[order] = torch.nn.functional.pad((ordered[1:] != ordered[:-1]).cumsum(0), (1, 0))[: len(order)]
    totals = torch.zeros(2, len(order), dtype=numbers.dtype, device=numbers.device)
    totals.index_add_(1, found, torch.stack([numbers.flatten(), torch.ones_like(numbers).flatten()]))
    return (totals[0] / totals[1])[found].view(numbers.shape)
