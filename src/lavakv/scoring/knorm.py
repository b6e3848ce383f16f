"""The key-norm score (arXiv 2406.11430): short keys attract attention."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.scoring.blocks import joined
from lavakv.scoring.window import ScoringWindow


def knorm_score(window: ScoringWindow) -> Tensor:
    """`-||K[i]||_2`, float32 `[H, n]`."""
    norms = joined(torch.linalg.vector_norm(block.float(), dim=-1) for block in window.key_blocks())
    return window.without_empty(-norms[:, : window.num_evictable])
