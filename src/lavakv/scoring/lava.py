"""LAVa's score (arXiv 2509.09754): pooled window attention times the head's largest value norm."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.scoring.pooling import max_pool
from lavakv.scoring.window import ScoringWindow

KERNEL_SIZE = 7


def lava_score(window: ScoringWindow) -> Tensor:
    """Score every evictable entry: `v_h * max_q max_pool(a_q)[i]` (method, steps 2 to 4).

    Returns:
        float32 `[H, n]`, comparable across the heads of the layer.
    """
    if window.num_evictable == 0:
        return window.value_norms[:, :0]
    pooled = max_pool(window.mean_attention, KERNEL_SIZE, window.places)
    largest_value = window.value_norms[:, : window.num_evictable].amax(dim=1, keepdim=True)
    return largest_value * pooled.amax(dim=1)


def eviction_loss(window: ScoringWindow) -> Tensor:
    """Increase of the paper's bound when an entry is evicted: `max_k ||V_h[k]||_1 * max_q a_q[i]`, nothing pooled.

    Returns:
        float32 `[H, n]`, 0 in empty places; the maximum runs over all entries, window included.
    """
    return window.remember(
        "eviction_loss",
        lambda: window.value_norms.amax(dim=1, keepdim=True) * torch.amax(window.mean_attention, dim=1),
    )
