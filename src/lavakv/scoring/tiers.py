"""Scores of a layer whose policy protects some entries, which it keeps before it compares the others."""

from __future__ import annotations

import warnings
from typing import NamedTuple

from torch import Tensor


class TieredScores(NamedTuple):
    """Two tiers: every protected entry ranks before every other one.

    Attributes:
        values: float32 `[H, n]`; orders the entries of a tier.
        protected: bool `[H, n]`.
    """

    values: Tensor
    protected: Tensor

    @property
    def outright(self) -> Tensor:
        """Deprecated name of `protected`."""
        warnings.warn("lavakv: TieredScores.outright is called protected now", DeprecationWarning, stacklevel=2)
        return self.protected


def best_first(values: Tensor, counts: Tensor) -> Tensor:
    """Mark each head's `counts[h]` best entries, ties to the earlier position: bool like `values`, `[H, n]`."""
    order = values.sort(dim=1, descending=True, stable=True).indices
    ranks = order.argsort(dim=1)
    return ranks < counts[:, None]
