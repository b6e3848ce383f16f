"""KeyDiff's score (arXiv 2504.15364): keys unlike the others are kept."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lavakv.scoring.window import ScoringWindow


def keydiff_score(window: ScoringWindow) -> Tensor:
    """`-cos(K[i], mean over positions of K / ||K||)`, float32 `[H, n]`."""
    keys = torch.cat([chunk.float() for chunk in window.keys], dim=1)
    anchor = functional.normalize(keys, dim=-1).mean(dim=1, keepdim=True)
    return -functional.cosine_similarity(keys, anchor, dim=-1)[:, : window.num_evictable]
