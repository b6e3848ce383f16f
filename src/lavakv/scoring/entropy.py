"""How evenly a layer's scores are spread: additive per-head statistics and the entropy that follows from them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lavakv.scoring.blocks import empty_places


def head_statistics(score: Tensor, caps: Tensor | None = None) -> Tensor:
    """Sums that add up over heads, and so over ranks that hold different heads.

    Args:
        score: `[H, n]`, not negative.
        caps: int64 `[H]`, how many places of each head hold candidates: the others add nothing; None for all.

    Returns:
        float64 `[H, 2]`: the sum of `s` and the sum of `s ln s` of each head.
    """
    exact = score.double()
    if caps is not None:
        exact = exact.masked_fill(empty_places(caps, 0, score.shape[1], score.shape[1]), 0.0)
    return _row_sums(torch.stack([exact, torch.xlogy(exact, exact)], dim=1))


def _row_sums(terms: Tensor) -> Tensor:
    """Sum over the last axis of `[rows, 2, n]`, to the bit the same whatever other rows and threads there are.

    On the CPU PyTorch cuts a row among threads only where it is the only one, and here are two. On a device it groups a
    row's terms by how many rows there are.
    """
    return terms.sum(dim=-1) if terms.device.type == "cpu" else sum_of_halves(terms)


def sum_of_halves(terms: Tensor) -> Tensor:
    """Sum over the last axis: the second half is added onto the first until one term is left.

    Args:
        terms: float64 `[..., n]`; 0 in all for `n` of 0.
    """
    width = 1 << max(terms.shape[-1] - 1, 0).bit_length()
    if width > terms.shape[-1]:
        terms = torch.nn.functional.pad(terms, (0, width - terms.shape[-1]))
    while width > 1:
        width //= 2
        terms = terms.narrow(-1, 0, width) + terms.narrow(-1, width, width)
    return terms[..., 0]


def normalized_entropy(statistics: Tensor, num_scores: int, caps: Tensor | None = None) -> Tensor:
    """Entropy of a layer's scores as a share of its maximum (method, step 5).

    Args:
        statistics: float64 `[2]`, `head_statistics` summed over all heads of the layer.
        num_scores: places of the layer, `H * n`.
        caps: int64 `[H]`, candidates of each head of the layer, so that the maximum is the logarithm of their sum;
            None where every place holds one.

    Returns:
        float64 scalar in `[0, 1]`; 0 where there is nothing to spread.
    """
    total, weighted = statistics.unbind()
    if num_scores < 2:
        return torch.zeros_like(total)
    entropy = (torch.log(total) - weighted / total) / _largest_entropy(num_scores, caps, total)
    return torch.where(total > 0, entropy, torch.zeros_like(entropy)).clamp(0.0, 1.0)


def _largest_entropy(num_scores: int, caps: Tensor | None, total: Tensor) -> float | Tensor:
    """Logarithm of how many scores there are, to the bit the same for full heads; infinite where it would be zero."""
    known = math.log(num_scores)
    if caps is None:
        return known
    num_candidates = caps.sum().to(total)
    largest = torch.where(num_candidates == num_scores, known, torch.log(num_candidates))
    return torch.where(num_candidates > 1, largest, torch.inf)
