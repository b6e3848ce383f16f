"""What eviction remembers of a layer until its budget is final, and what it reports in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.policy import Policy
from lavakv.ranking import rank
from lavakv.scoring.lava import eviction_loss
from lavakv.scoring.window import ScoringWindow
from lavakv.selection import layer_weight, score_window


class Budgets(NamedTuple):
    """What a policy decided for the prompts of a batch. Entries include the window; plain CPU tensors.

    Attributes:
        layer_entries: int64 `[layers, batch]`, entries each layer keeps of each prompt.
        layer_weights: float64 `[layers, batch]`, the entropy (or other weight) behind them; NaN where a sequence was
            short enough to keep everything.
        head_entries: int64 `[layers, batch, heads]`; 0 for a head that a layer does not have.
        estimated_loss: float64 `[layers, batch]`, the paper's bound: evicted attention times the head's largest value
            norm, summed.
    """

    layer_entries: Tensor
    layer_weights: Tensor
    head_entries: Tensor
    estimated_loss: Tensor


@dataclass(slots=True)
class RankedPrompt:
    """One sequence in one layer, ranked.

    Attributes:
        positions: int64 `[H, n]` by rank; needed until the entries themselves stand in rank order.
        pooled_heads: int16, head of each entry of the layer, best first, as far as a later budget can reach.
        loss: float32 `[H, ranks]`, what evicting each entry costs, in rank order.
        total_loss: float, the same summed over all evictable entries.
        weight: the layer's weight in the split over layers.
    """

    positions: Tensor
    pooled_heads: Tensor
    loss: Tensor
    total_loss: float
    weight: float

    @classmethod
    def of(cls, policy: Policy, window: ScoringWindow) -> RankedPrompt:
        """Score and rank a layer's entries.

        Raises:
            PolicyError: the policy's scores are not finite, named with the layer.
        """
        score = score_window(policy, window)
        weight = layer_weight(policy, score, window.layer)
        ranking = rank(score)
        loss = eviction_loss(window)
        total_loss = float(loss.sum(dtype=torch.float64))
        return cls(ranking.positions, ranking.pooled_heads, loss.gather(1, ranking.positions), total_loss, weight)

    def forget_beyond(self, total: int, most_ranks: int) -> None:
        """Drop what no smaller budget can ask for."""
        self.positions = self.positions[:, :0].clone()
        self.pooled_heads = self.pooled_heads[:total].clone()
        self.loss = self.loss[:, :most_ranks].clone()

    def evicted_loss(self, counts: list[int]) -> float:
        """The estimated loss when each head keeps its first `counts[h]` entries."""
        kept = sum(float(row[:count].sum(dtype=torch.float64)) for row, count in zip(self.loss, counts, strict=True))
        return max(self.total_loss - kept, 0.0)
