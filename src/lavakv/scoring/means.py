"""Means over entries that belong together, without waiting for a CUDA device."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from lavakv.scoring.window import ScoringWindow


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


def mean_by_head(window: ScoringWindow, blocks: Iterable[Tensor]) -> Tensor:
    """Mean of all that each head holds, the window included and empty places left out, float32 `[H, dim]`.

    Args:
        window: the window.
        blocks: its keys or values, cut like its attention, `[H, tokens, dim]`.
    """
    empty, first, total = window.empty, 0, torch.zeros((), device=window.queries.device)
    for block in blocks:
        numbers, last = block.float().contiguous(), first + block.shape[1]  # sums depend on strides
        if empty is not None and first < empty.shape[1]:
            hidden = F.pad(empty[:, first:last], (0, max(last - empty.shape[1], 0)))
            numbers = numbers.masked_fill(hidden[..., None], 0.0).contiguous()
        total, first = total + numbers.sum(dim=1), last
    if window.caps is None:  # a tensor as well, so that a division rounds alike
        return total / torch.full((1, 1), window.num_tokens, device=total.device)
    return total / (window.caps[:, None] + window.queries.shape[2])
