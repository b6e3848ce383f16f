"""One sequence in one layer on its way through a round, and what the round reports in the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.policy.apply import LayerWeight, ScoredLayer, score_layer
from lavakv.policy.numbers import Readback
from lavakv.policy.rules import Policy
from lavakv.scoring.lava import eviction_loss
from lavakv.scoring.window import ScoringWindow
from lavakv.selection.allocation import Allocation
from lavakv.selection.ranking import Ranking, rank


class Budgets(NamedTuple):
    """What a policy decided for the sequences of a batch. Entries include the window; plain CPU tensors.

    Attributes:
        layer_entries: int64 `[layers, batch]`, entries each layer keeps of each sequence.
        layer_weights: float64 `[layers, batch]`, the entropy (or other weight) behind them; NaN where a sequence was
            short enough to keep everything.
        head_entries: int64 `[layers, batch, heads]`; 0 for a head that a layer does not have.
        estimated_loss: float64 `[layers, batch]`, the paper's bound: evicted attention times the head's largest value
            norm, summed.
        total_loss: float64 `[layers, batch]`, what that would be if everything before the window were evicted; 0 where
            a sequence was short enough to keep everything.
    """

    layer_entries: Tensor
    layer_weights: Tensor
    head_entries: Tensor
    estimated_loss: Tensor
    total_loss: Tensor

    @property
    def relative_loss(self) -> Tensor:
        """Estimated loss of each sequence as `max_loss` limits it, float64 `[batch]` from 0 to 1; 0 where all stays."""
        rows = zip(self.estimated_loss.T.tolist(), self.total_loss.T.tolist(), strict=True)
        return torch.tensor([relative_loss(own, total) for own, total in rows], dtype=torch.float64, device="cpu")

    @property
    def tokens_per_head(self) -> Tensor:
        """Mean entries that a KV head keeps of each sequence, float64 `[batch]`: the budget, or less if all stays."""
        entries = self.head_entries.transpose(0, 1).flatten(1)
        return entries.sum(dim=1) / (entries > 0).sum(dim=1).double()


def relative_loss(estimated: Sequence[float], total: Sequence[float]) -> float:
    """The loss over all layers as a share of that of evicting everything before the window.

    Args:
        estimated: of each layer.
        total: of each layer, if it evicted everything before the window.
    """
    whole = math.fsum(total)
    return math.fsum(estimated) / whole if whole else 0.0


@dataclass(slots=True)
class RankedLayer:
    """One sequence in one layer, ranked, where its scores are.

    Attributes:
        ranking: its candidates, best first.
        loss: float32 `[H, ranks]`, what evicting each candidate costs, in rank order.
        layer_weight: the layer's weight in the split over layers.
        whole_loss: float64 scalar, the loss summed over all candidates.
        rank_with: ranks again by the same scores, given the entries that every head keeps before heads compete.
    """

    ranking: Ranking
    loss: Tensor
    layer_weight: LayerWeight
    whole_loss: Readback
    rank_with: Callable[[int], Ranking]

    @classmethod
    def of(
        cls, policy: Policy, window: ScoringWindow, min_entries_per_head: int, caps: Tensor | None = None
    ) -> RankedLayer:
        """Score and rank a layer's candidates, without waiting for a CUDA device.

        Args:
            policy: decides.
            window: the layer's last queries on its candidates.
            min_entries_per_head: entries that every head keeps before heads compete.
            caps: int64 `[H]` on the CPU, the window's own; None where every place holds a candidate.

        Raises:
            PolicyError: the policy's scores cannot be used, named with the layer; see `LayerWeight` for when.
        """
        return cls.ranked(score_layer(policy, window), window, min_entries_per_head, caps)

    @classmethod
    def ranked(
        cls, scored: ScoredLayer, window: ScoringWindow, min_entries_per_head: int, caps: Tensor | None = None
    ) -> RankedLayer:
        """Rank a layer's candidates by scores that are at hand."""
        rank_with = partial(rank, scored.score, caps=caps, pinned=window.pinned)
        ranking, loss = rank_with(min_entries_per_head), eviction_loss(window)
        total = Readback(loss.sum(dtype=torch.float64))
        return cls(ranking, loss.gather(1, ranking.positions), scored.weight, total, rank_with)

    def with_minimum(self, min_entries_per_head: int) -> RankedLayer:
        """The same with other entries that every head keeps before heads compete; a head's own order stays."""
        return replace(self, ranking=self.rank_with(min_entries_per_head))

    @property
    def weight(self) -> float:
        """The layer's weight; waits for it."""
        return self.layer_weight.value()

    @property
    def total_loss(self) -> float:
        """The loss of evicting everything; waits for it."""
        return float(self.whole_loss.get())

    def placed(self, max_ranks: int) -> PlacedLayer:
        """What is still needed once the entries stand in rank order in their store, and no head keeps more ranks."""
        return PlacedLayer(self.loss[:, :max_ranks].clone(), self.total_loss, self.weight)


class PlacedLayer(NamedTuple):
    """One sequence in one layer whose entries are in their store.

    Attributes:
        loss: float32 `[H, ranks]`, what evicting each entry costs, in rank order, as far as the store goes.
        total_loss: the same summed over all candidates.
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


class PendingLayer:
    """A ranked layer whose numbers may still be on their way to the host, where its sequence's allocation needs them.

    Args:
        ranked: the layer's candidates, best first.
        pooled_by_score: whether all heads of all layers compete, so that the allocation needs scores and tiers.
        max_entries: entries that the sequence keeps in all its layers; no layer's share is larger.
    """

    def __init__(self, ranked: RankedLayer, pooled_by_score: bool, max_entries: int) -> None:
        self.ranked = ranked
        heads, scores, tiers = ranked.ranking[1:]
        self._heads = Readback(heads[:max_entries])
        self._others = None
        if pooled_by_score:
            self._others = Readback(scores[:max_entries]), None if tiers is None else Readback(tiers[:max_entries])

    @property
    def deferred(self) -> bool:
        """Whether anything that the host must know is still on its way."""
        return self._heads.deferred or self.ranked.layer_weight.deferred

    def add_to(self, allocation: Allocation) -> None:
        """Join the layers known to a sequence's allocation; waits for what is on its way.

        Raises:
            PolicyError: the layer's scores cannot be used, named with policy and layer.
        """
        weight, parts = self.ranked.weight, {"pooled_heads": self._heads.get()}
        if self._others is not None:
            scores, tiers = self._others
            parts |= {"pooled_scores": scores.get()} | ({} if tiers is None else {"pooled_tiers": tiers.get()})
        allocation.add(self.ranked.ranking._replace(**parts), weight)
