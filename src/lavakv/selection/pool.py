"""One pool for all heads of all layers: the best entries win, wherever they are."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.selection.ranking import best_entries


class Pool:
    """The best `size` entries of the layers seen so far; a further layer can only push earlier ones out.

    Order: tier, then higher score, then earlier layer, then the layer's own order.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._num_heads = 0
        self._owners = [torch.zeros(0, dtype=torch.int32, device="cpu")]
        self._scores = [torch.zeros(0, dtype=torch.float32, device="cpu")]
        self._tiers = [torch.zeros(0, dtype=torch.int8, device="cpu")]

    def add(self, num_heads: int, heads: Tensor, scores: Tensor, tiers: Tensor | None) -> None:
        """Let a layer compete.

        Args:
            num_heads: KV heads of the layer.
            heads: `[entries]`, head of each entry of the layer, best first.
            scores: `[entries]`, float32.
            tiers: int8 `[entries]`, or None where all are 0.
        """
        heads = heads[: self._size].cpu().int()
        self._owners.append(heads + self._num_heads)
        self._scores.append(scores[: self._size].cpu().float().clone())  # no view that keeps all of it alive
        self._tiers.append(torch.zeros_like(heads).char() if tiers is None else tiers[: self._size].cpu().clone())
        self._num_heads += num_heads

    def counts(self) -> Tensor:
        """Entries of each head that are in the pool now, int64, heads counted through all layers."""
        if len(self._owners) > 1:
            self._compete()
        return torch.bincount(self._owners[0].long(), minlength=self._num_heads)

    def _compete(self) -> None:
        """Merge new entries and drop those beyond the pool's size; the others keep their order, which breaks ties."""
        owners, scores, tiers = torch.cat(self._owners), torch.cat(self._scores), torch.cat(self._tiers)
        best = best_entries(scores, tiers if bool(tiers.any()) else None, self._size)
        self._owners, self._scores, self._tiers = [owners[best]], [scores[best]], [tiers[best]]
