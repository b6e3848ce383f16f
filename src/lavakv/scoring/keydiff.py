"""KeyDiff's score (arXiv 2504.15364): keys unlike the others are kept."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lavakv.scoring.blocks import joined
from lavakv.scoring.window import ScoringWindow


def keydiff_score(window: ScoringWindow) -> Tensor:
    """`-cos(K[i], mean over positions of K / ||K||)`, float32 `[H, n]`."""
    sums = [functional.normalize(block.float(), dim=-1).sum(dim=1, keepdim=True) for block in window.key_blocks()]
    anchor = torch.stack(sums).sum(dim=0) / window.num_tokens
    blocks = (block.float() for block in window.key_blocks())
    cosines = joined(functional.cosine_similarity(block, anchor, dim=-1) for block in blocks)
    return -cosines[:, : window.num_evictable]
