"""The key-norm score (arXiv 2406.11430): short keys attract attention."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.scoring.window import ScoringWindow


def knorm_score(window: ScoringWindow) -> Tensor:
    """`-||K[i]||_2`, float32 `[H, n]`."""
    norms = [torch.linalg.vector_norm(chunk.float(), dim=-1) for chunk in window.keys]
    return -torch.cat(norms, dim=1)[:, : window.num_evictable]
