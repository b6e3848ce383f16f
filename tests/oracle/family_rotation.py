"""Scores of the family that look before the rotation: Expected Attention."""

from __future__ import annotations

import torch

from tests.oracle.family_view import Ranking, View


def expected_attention(view: View, keep: int, first: int = 4, epsilon: float = 0.01) -> Ranking:
    """By what a query to come, normally distributed as the prompt's, would pay; the first four outright."""
    turn, ranked = mean_turn(view), []
    for head in view.heads:
        keys, shares = view.keys[head, first:], []
        for query in view.queries_of(head):
            rows = view.unrotated(0, query)[first:]
            mean, covariance = turn @ rows.mean(dim=0), turn @ torch.cov(rows.T, correction=0) @ turn.T
            scale = view.capture.scaling
            exponent = keys @ mean * scale + torch.einsum("ki,ij,kj->k", keys, covariance, keys) * scale**2 / 2
            shares.append(exponent.softmax(dim=0))
        lengths = view.all_values[head, first:].square().sum(dim=1).sqrt()
        row = (torch.stack(shares).mean(dim=0) + epsilon) * lengths
        ranked.append([0.0] * first + row[: view.num_evictable - first].tolist())
    return Ranking(ranked, [set(range(first)) for _ in view.heads])


def mean_turn(view: View) -> torch.Tensor:
    """The mean of the matrices that rotate a query at the next positions, `[head_dim, head_dim]`."""
    cos, sin = view.capture.ahead
    size = cos.shape[1]
    half = torch.zeros(size, size)
    half[torch.arange(size // 2), torch.arange(size // 2) + size // 2] = -1
    half -= half.T.clone()
    matrices = [torch.diag(c) + torch.diag(s) @ half for c, s in zip(cos.float(), sin.float(), strict=True)]
    return torch.stack(matrices).mean(dim=0).to(view.dtype)
