"""StreamingLLM's score (arXiv 2309.17453): the first positions, then the latest."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.scoring.window import ScoringWindow

NUM_FIRST = 4


def streaming_llm_score(window: ScoringWindow) -> Tensor:
    """Recency, but the first 4 positions before all and in their order, float32 `[H, n]`."""
    positions = torch.arange(window.num_evictable, dtype=torch.float32, device=window.queries.device)
    score = torch.where(positions < NUM_FIRST, window.num_evictable + NUM_FIRST - positions, positions)
    return score.expand(window.queries.shape[0], -1)
