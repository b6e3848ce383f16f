"""TOVA's score (arXiv 2401.06104): what the last token attends to."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.scoring.window import ScoringWindow

_NOWHERE = torch.iinfo(torch.int64).max


def tova_score(window: ScoringWindow) -> Tensor:
    """The last row's attention, averaged over all query heads of the layer; equal in each head, float32 `[H, n]`.

    Where heads hold different positions, each position gets the mean over the query heads that hold it: a head that
    has evicted it says nothing about it, neither for nor against.
    """
    last = window.reduce(lambda rows: rows[:, :, -1].mean(dim=(0, 1))).expand(window.queries.shape[0], -1)
    if window.caps is None and window.positions is None:
        return last
    own = window.reduce(lambda rows: rows[:, :, -1].double().mean(dim=1))
    positions = window.without_empty(window.candidate_positions, _NOWHERE)
    same = (positions == positions[:1]).all() & (positions != _NOWHERE).all()
    return torch.where(same, last, _mean_by_position(own, positions).float())


def _mean_by_position(numbers: Tensor, positions: Tensor) -> Tensor:
    """The mean of all numbers of the same position, each in its place; both `[H, n]`."""
    ordered, order = positions.flatten().sort()
    groups = torch.zeros_like(order)
    groups[order] = torch.nn.functional.pad((ordered[1:] != ordered[:-1]).cumsum(0), (1, 0))[: len(order)]
    totals = torch.zeros(2, len(order), dtype=numbers.dtype, device=numbers.device)
    totals.index_add_(1, groups, torch.stack([numbers.flatten(), torch.ones_like(numbers).flatten()]))
    return (totals[0] / totals[1])[groups].view(numbers.shape)
