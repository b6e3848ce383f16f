"""What eviction remembers of a layer until its budget is final, and what it reports in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.judging import judge, layer_weight
from lavakv.policy import Policy
from lavakv.ranking import Ranking, rank
from lavakv.scoring.lava import eviction_loss
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow


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


class Judged(NamedTuple):
    """One sequence in one layer, scored.

    Attributes:
        score: what the policy's score says, `[H, n]`.
        weight: the layer's weight in the split over layers.
    """

    score: Tensor | TieredScores
    weight: float


def judged(policy: Policy, window: ScoringWindow) -> Judged:
    """Score a layer's entries.

    Raises:
        PolicyError: the policy's scores cannot be used, named with the layer.
    """
    score = judge(policy, window)
    return Judged(score, layer_weight(policy, window, score.values if isinstance(score, TieredScores) else score))


@dataclass(slots=True)
class RankedPrompt:
    """One sequence in one layer, ranked.

    Attributes:
        ranking: its entries, best first.
        weight: the layer's weight in the split over layers.
        loss: float32 `[H, ranks]`, what evicting each entry costs, in rank order.
        total_loss: float, the same summed over all evictable entries.
    """

    ranking: Ranking
    weight: float
    loss: Tensor
    total_loss: float

    @classmethod
    def of(cls, policy: Policy, window: ScoringWindow, num_guaranteed: int) -> RankedPrompt:
        """Score and rank a layer's entries.

        Raises:
            PolicyError: the policy's scores cannot be used, named with the layer.
        """
        return cls.ranked(judged(policy, window), window, num_guaranteed)

    @classmethod
    def ranked(cls, scored: Judged, window: ScoringWindow, num_guaranteed: int) -> RankedPrompt:
        """Rank a layer's entries by scores that are at hand."""
        ranking, loss = rank(scored.score, num_guaranteed), eviction_loss(window)
        return cls(ranking, scored.weight, loss.gather(1, ranking.positions), float(loss.sum(dtype=torch.float64)))

    def settle(self, most_ranks: int) -> Settled:
        """What is still needed once the entries stand in rank order in their store, and no head keeps more ranks."""
        return Settled(self.loss[:, :most_ranks].clone(), self.total_loss, self.weight)


class Settled(NamedTuple):
    """One sequence in one layer whose entries are in their store.

    Attributes:
        loss: float32 `[H, ranks]`, what evicting each entry costs, in rank order, as far as the store goes.
        total_loss: the same summed over all evictable entries.
        weight: the layer's weight in the split over layers.
    """

    loss: Tensor
    total_loss: float
    weight: float

    def evicted_loss(self, counts: list[int]) -> float:
        """The estimated loss when each head keeps its first `counts[h]` entries."""
        sums = torch.nn.functional.pad(self.loss.double().cumsum(dim=1), (1, 0))  # the same however far ranks go
        kept = sums.gather(1, torch.tensor(counts, device=sums.device)[:, None])
        return max(self.total_loss - float(kept.sum()), 0.0)
