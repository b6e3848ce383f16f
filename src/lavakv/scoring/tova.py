"""TOVA's score (arXiv 2401.06104): what the last token attends to."""

from __future__ import annotations

from torch import Tensor

from lavakv.scoring.window import ScoringWindow


def tova_score(window: ScoringWindow) -> Tensor:
    """The last row's attention, averaged over all query heads of the layer; equal in each head, float32 `[H, n]`."""
    last = window.reduce(lambda rows: rows[:, :, -1].mean(dim=(0, 1)))
    return last.expand(window.queries.shape[0], -1)
