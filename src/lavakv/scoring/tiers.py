"""Scores of a layer whose policy keeps some entries outright, before it compares the others."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class TieredScores(NamedTuple):
    """Two tiers: every entry kept outright ranks before every other one.

    Attributes:
        values: float32 `[H, n]`; orders the entries of a tier.
        outright: bool `[H, n]`.
    """

    values: Tensor
    outright: Tensor


def best_first(values: Tensor, counts: Tensor) -> Tensor:
    """Mark each head's `counts[h]` best entries, ties to the earlier position: bool like `values`, `[H, n]`."""
    order = values.sort(dim=1, descending=True, stable=True).indices
    ranks = order.argsort(dim=1)
    return ranks < counts[:, None]
