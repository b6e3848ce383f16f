"""VATP's score (arXiv 2406.12335): attention times the token's own value norm."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.scoring.pooling import max_pool
from lavakv.scoring.window import ScoringWindow

KERNEL_SIZE = 7


def vatp_score(window: ScoringWindow) -> Tensor:
    """Group maximum of `max_pool(a_q * ||V[i]||_1)[i]`, float32 `[H, n]`."""
    norms = window.value_norms[:, None, : window.num_evictable]
    return torch.amax(max_pool(window.mean_attention * norms, KERNEL_SIZE, window.places), dim=1)
