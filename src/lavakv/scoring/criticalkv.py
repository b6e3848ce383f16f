"""CriticalKV's score (arXiv 2502.03805): half by attention, the rest by attention times the projected value's norm."""

from __future__ import annotations

import torch

from lavakv.scoring.snapkv import snapkv_score
from lavakv.scoring.tiers import TieredScores, best_first
from lavakv.scoring.window import ScoringWindow

FIRST_STAGE = 0.5
EPSILON = 1e-4


def criticalkv_score(window: ScoringWindow) -> TieredScores:
    """Keep half by SnapKV's score `s`, the rest by `(s + 1e-4) mean_q ||V[i] W_O,q||_1`.

    Protected are each head's first `floor(0.5 (b - w))` by `s`. Needs the budget and the output projection.
    """
    assert window.tokens_per_head is not None
    attention = snapkv_score(window)
    kept = int(FIRST_STAGE * (window.tokens_per_head - window.queries.shape[2]))
    counts = torch.full((attention.shape[0],), kept, device=attention.device)
    critical = best_first(attention, counts)
    if window.empty is not None:
        critical &= ~window.empty  # zeros there, so they rank after all candidates
    return TieredScores((attention + EPSILON) * window.projected_norms.mean(dim=1), critical)
