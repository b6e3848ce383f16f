"""What eviction remembers of a layer until its budget is final, and what it reports in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.eviction.readback import LayerWeight, Readback
from lavakv.judging import judge
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
    weight: LayerWeight


def judged(policy: Policy, window: ScoringWindow) -> Judged:
    """Score a layer's entries.

    Raises:
        PolicyError: the policy's scores cannot be used, named with the layer; see `LayerWeight` for when.
    """
    score = judge(policy, window)
    return Judged(score, LayerWeight(policy, window, score.values if isinstance(score, TieredScores) else score))


@dataclass(slots=True)
class RankedPrompt:
    """One sequence in one layer, ranked, where its scores are.

    Attributes:
        ranking: its entries, best first.
        loss: float32 `[H, ranks]`, what evicting each entry costs, in rank order.
        layer_weight: the layer's weight in the split over layers.
        whole_loss: float64 scalar, the loss summed over all evictable entries.
    """

    ranking: Ranking
    loss: Tensor
    layer_weight: LayerWeight
    whole_loss: Readback

    @classmethod
    def of(cls, policy: Policy, window: ScoringWindow, min_entries_per_head: int) -> RankedPrompt:
        """Score and rank a layer's entries, without waiting for a CUDA device.

        Raises:
            PolicyError: the policy's scores cannot be used, named with the layer; see `LayerWeight` for when.
        """
        return cls.ranked(judged(policy, window), window, min_entries_per_head)

    @classmethod
    def ranked(cls, scored: Judged, window: ScoringWindow, min_entries_per_head: int) -> RankedPrompt:
        """Rank a layer's entries by scores that are at hand."""
        ranking, loss = rank(scored.score, min_entries_per_head), eviction_loss(window)
        whole = Readback(loss.sum(dtype=torch.float64))
        return cls(ranking, loss.gather(1, ranking.positions), scored.weight, whole)

    @property
    def weight(self) -> float:
        """The layer's weight; waits for it."""
        return self.layer_weight.value()

    @property
    def total_loss(self) -> float:
        """The loss of evicting everything; waits for it."""
        return float(self.whole_loss.get())

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

    def kept_loss(self, counts: list[int]) -> Readback:
        """Loss of evicting the first `counts[h]` entries of each head, which are kept; float64 scalar."""
        sums = torch.nn.functional.pad(self.loss.double().cumsum(dim=1), (1, 0))  # the same however far ranks go
        ends = torch.tensor(counts, device="cpu").to(sums.device, non_blocking=True)
        return Readback(sums.gather(1, ends[:, None]).sum())

    def evicted_loss(self, counts: list[int]) -> float:
        """The estimated loss when each head keeps its first `counts[h]` entries."""
        return self.without(self.kept_loss(counts))

    def without(self, kept: Readback) -> float:
        """The estimated loss when what `kept_loss` found is kept."""
        return max(self.total_loss - float(kept.get()), 0.0)
