"""How many entries every head of every layer of one sequence keeps, as its layers become known one after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lavakv.budgets.heads import head_budgets, retained_while_trimming, worst_case_spare
from lavakv.budgets.layers import layer_budgets
from lavakv.budgets.pool import Pool
from lavakv.budgets.pyramid import pyramid_weights
from lavakv.policy import Policy
from lavakv.ranking import Ranking


class Allocation(ABC):
    """Budgets of one sequence. Each layer that is added leaves the earlier ones as much as before, or less."""

    @abstractmethod
    def add(self, ranking: Ranking, weight: float) -> None:
        """Take the next layer: its entries, best first, and its weight."""

    @abstractmethod
    def most(self, layer: int) -> int:
        """Upper bound on the entries a layer must keep now, window aside."""

    @abstractmethod
    def counts(self, layer: int, final: bool) -> Tensor:
        """Entries each head of a layer keeps, int64 `[H]`: exact once all are known, with rounding's spare before."""

    @abstractmethod
    def final_counts(self) -> list[list[int]]:
        """Entries each head of each layer keeps, once all layers are known."""


class DividedAllocation(Allocation):
    """The sequence's total is divided over layers by weight, a layer's over heads by the head rule."""

    def __init__(self, policy: Policy, num_heads: Sequence[int], mean_entries: int, num_evictable: int) -> None:
        self._policy, self._num_heads, self._num_evictable = policy, list(num_heads), num_evictable
        self._total = mean_entries * sum(num_heads)
        self._known_beforehand: list[float] | None = None
        if policy.layer_rule == "equal":
            self._known_beforehand = [float(heads) for heads in num_heads]
        elif policy.layer_rule == "pyramid":
            self._known_beforehand = pyramid_weights(mean_entries, num_evictable, num_heads)
        self._weights: list[float] = []
        self._pooled: list[Tensor] = []  # of the first layers only what their totals reach, of new ones all
        self._num_settled = 0
        self._totals: list[int] = []

    def add(self, ranking: Ranking, weight: float) -> None:
        """See `Allocation.add`."""
        self._weights.append(weight)
        self._pooled.append(ranking.pooled_heads)

    def most(self, layer: int) -> int:
        """See `Allocation.most`."""
        self._settle()
        heads = self._num_heads[layer]
        return min(self._totals[layer] + worst_case_spare(heads), self._num_evictable * heads)

    def counts(self, layer: int, final: bool) -> Tensor:
        """See `Allocation.counts`."""
        self._settle()
        total = self._totals[layer]
        weights = self._policy.head_weights(self._pooled[layer], self._num_heads[layer], total)
        if final:
            return head_budgets(weights, total, self._num_evictable)
        return retained_while_trimming(weights, total, self._num_evictable)

    def final_counts(self) -> list[list[int]]:
        """See `Allocation.final_counts`."""
        self._settle()
        layers = zip(self._pooled, self._num_heads, self._totals, strict=True)
        weights = [self._policy.head_weights(*layer) for layer in layers]
        if len(set(self._num_heads)) > 1:
            pairs = zip(weights, self._totals, strict=True)
            return [head_budgets(own, total, self._num_evictable).tolist() for own, total in pairs]
        found: list[list[int]] = head_budgets(
            torch.stack(weights), torch.tensor(self._totals, device="cpu"), self._num_evictable
        ).tolist()
        return found

    def _settle(self) -> None:
        """Divide the total over the layers known by now and let go of what is beyond each one's share."""
        known = len(self._weights)
        if self._num_settled == known:
            return
        if self._known_beforehand is None or not self._totals:
            weights = torch.tensor(self._known_beforehand or self._weights, dtype=torch.float64, device="cpu")
            split = layer_budgets(self._total, weights, self._num_heads[: len(weights)], self._num_evictable)
            self._totals = split.tolist()
        for layer in range(self._num_settled, known):
            self._pooled[layer] = self._pooled[layer][: self._totals[layer]].cpu().clone()
        self._num_settled = known


class PooledAllocation(Allocation):
    """All heads of all layers compete for the sequence's total; nothing is rounded, so nothing is spare."""

    def __init__(self, num_heads: Sequence[int], mean_entries: int) -> None:
        self._num_heads = list(num_heads)
        self._pool = Pool(mean_entries * sum(num_heads))
        self._num_known = 0
        self._counts: Sequence[Tensor] = ()

    def add(self, ranking: Ranking, weight: float) -> None:
        """See `Allocation.add`; the weight is not used."""
        heads = self._num_heads[self._num_known]
        self._pool.add(heads, ranking.pooled_heads, ranking.pooled_scores, ranking.pooled_tiers)
        self._num_known += 1

    def most(self, layer: int) -> int:
        """See `Allocation.most`."""
        return int(self.counts(layer, final=True).sum())

    def counts(self, layer: int, final: bool) -> Tensor:
        """See `Allocation.counts`."""
        if len(self._counts) < self._num_known:
            self._counts = torch.split(self._pool.counts(), self._num_heads[: self._num_known])
        return self._counts[layer]

    def final_counts(self) -> list[list[int]]:
        """See `Allocation.final_counts`."""
        return [self.counts(layer, final=True).tolist() for layer in range(self._num_known)]


def allocate(policy: Policy, num_heads: Sequence[int], mean_entries: int, num_evictable: int) -> Allocation:
    """The allocation that a policy's layer rule asks for.

    Args:
        policy: whose rules to follow.
        num_heads: KV heads of every compressed layer.
        mean_entries: mean entries a head keeps before the window, `b - w`.
        num_evictable: positions before the window, `n`.
    """
    if policy.layer_rule == "pool":
        return PooledAllocation(num_heads, mean_entries)
    return DividedAllocation(policy, num_heads, mean_entries, num_evictable)
