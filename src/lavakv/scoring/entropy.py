"""How evenly a layer's scores are spread: additive per-head statistics and the entropy that follows from them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def head_statistics(score: Tensor) -> Tensor:
    """Sums that add up over heads, and so over ranks that hold different heads.

    Args:
        score: `[H, n]`, not negative.

    Returns:
        float64 `[H, 2]`: the sum of `s` and the sum of `s ln s` of each head.
    """
    exact = score.double().contiguous()  # sums of other strides round in another order
    return torch.stack([exact.sum(dim=1), torch.xlogy(exact, exact).sum(dim=1)], dim=1)


def normalized_entropy(statistics: Tensor, num_scores: int) -> Tensor:
    """Entropy of a layer's scores as a share of its maximum (method, step 5).

    Args:
        statistics: float64 `[2]`, `head_statistics` summed over all heads of the layer.
        num_scores: how many scores went in, `H * n`.

    Returns:
        float64 scalar in `[0, 1]`; 0 where there is nothing to spread.
    """
    total, weighted = statistics.unbind()
    if num_scores < 2:
        return torch.zeros_like(total)
    entropy = (torch.log(total) - weighted / total) / math.log(num_scores)
    return torch.where(total > 0, entropy, torch.zeros_like(entropy)).clamp(0.0, 1.0)
