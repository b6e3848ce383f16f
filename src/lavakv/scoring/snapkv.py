"""SnapKV's score (arXiv 2404.14469): pooled window attention, averaged over the query heads of a KV head."""

from __future__ import annotations

from torch import Tensor

from lavakv.scoring.pooling import max_pool
from lavakv.scoring.window import ScoringWindow

KERNEL_SIZE = 7


def snapkv_score(window: ScoringWindow) -> Tensor:
    """Group mean of `max_pool(a_q)[i]`, float32 `[H, n]`; also PyramidKV's and Ada-KV's score."""
    return max_pool(window.mean_attention, KERNEL_SIZE, window.places).mean(dim=1)
