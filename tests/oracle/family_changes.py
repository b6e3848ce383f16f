"""Scores of `caote` and `dropkv`: an entry is taken out of the attention, and what the output moves by is measured."""

from __future__ import annotations

import torch

from tests.oracle.family_scores import group_mean, mean_pool
from tests.oracle.family_view import Ranking, View

LEAST_REST = 2.0**-10
ADDED_TO_REST = 1e-6
ROWS, WIDTH = 8, 11


def caote(view: View, keep: int) -> Ranking:
    """How far the window's mean output moves, mean over the query heads of a KV head."""
    moved = []
    for query, rows in enumerate(view.whole):
        paid = rows.sum(dim=0) / view.window
        paid = paid / paid.sum()
        rest = (1 - paid).clamp(min=LEAST_REST)
        moved.append(paid / rest * apart(view, query, paid))
    return Ranking([group_mean(view, head, moved)[: view.num_evictable].tolist() for head in view.heads])


def dropkv(view: View, keep: int) -> Ranking:
    """Squares of how far the outputs of the last eight rows move, summed over them, mean over the query heads."""
    moved = []
    for query, rows in enumerate(view.whole):
        total = torch.zeros(rows.shape[1], dtype=view.dtype)
        for paid in rows[-ROWS:]:
            total += (paid / (1 - paid + ADDED_TO_REST)).square() * apart(view, query, paid).square()
        moved.append(total)
    pooled = [mean_pool(group_mean(view, head, moved), WIDTH) for head in view.heads]
    return Ranking([row[: view.num_evictable].tolist() for row in pooled])


def apart(view: View, query: int, paid: torch.Tensor) -> torch.Tensor:
    """Length of each position's value less the output, `[positions]`."""
    values = view.all_values[query // len(view.queries_of(0))]
    output = (paid[:, None] * values).sum(dim=0)
    return (values - output).square().sum(dim=1).sqrt()
