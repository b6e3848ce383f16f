"""TOVA's score (arXiv 2401.06104): what the last token attends to."""

from __future__ import annotations

from torch import Tensor

from lavakv.scoring.window import ScoringWindow


def tova_score(window: ScoringWindow) -> Tensor:
    """The last row's attention, averaged over all query heads of the layer; equal in each head, float32 `[H, n]`."""
    last = window.attention[:, :, -1, : window.num_evictable]
    return last.mean(dim=(0, 1)).expand(last.shape[0], -1)
