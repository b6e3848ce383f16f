"""StreamingLLM's score (arXiv 2309.17453): the first positions, then the latest."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.scoring.window import ScoringWindow

NUM_FIRST = 4


def streaming_llm_score(window: ScoringWindow) -> Tensor:
    """Recency, but the first 4 positions before all and in their order, float32 `[H, n]`.

    Positions are those of the sequence: a first token that an earlier round has evicted is not replaced by another one.
    """
    if window.num_evictable == 0:
        return window.queries.new_empty(window.queries.shape[0], 0, dtype=torch.float32)
    positions = window.without_empty(window.candidate_positions.float())
    behind = positions.amax(dim=1, keepdim=True) + 1
    return torch.where(positions < NUM_FIRST, behind + NUM_FIRST - positions, positions)
