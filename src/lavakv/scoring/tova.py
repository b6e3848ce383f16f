"""TOVA's score (arXiv 2401.06104): what the last token attends to."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.scoring.means import mean_by_group
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
    return torch.where(same, last, mean_by_group(own, positions).float())
