"""How many entries every head of every layer of one sequence keeps, as its layers become known one after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lavakv.budgets.split import (
    equal_weights,
    head_budgets,
    layer_budgets,
    pooled_weights,
    pyramid_weights,
    retained_while_trimming,
)
from lavakv.budgets.worst_case import worst_case_spare
from lavakv.policy.rules import Policy
from lavakv.selection.pool import Pool
from lavakv.selection.ranking import Ranking


class Allocation(ABC):
    """Budgets of one sequence. Each layer that is added leaves the earlier ones as much as before, or less."""

    @abstractmethod
    def add(self, ranking: Ranking, weight: float) -> None:
        """Take the next layer: its entries, best first, and its weight."""

    @abstractmethod
    def most(self, layer: int) -> int:
        """Upper bound on the entries a layer must keep now, window excluded."""

    @abstractmethod
    def counts(self, layer: int, final: bool) -> Tensor:
        """Entries each head of a layer keeps, int64 `[H]`: exact once all are known, with rounding's spare before."""

    @abstractmethod
    def final_counts(self) -> list[list[int]]:
        """Entries each head of each layer keeps, once all layers are known."""


class DividedAllocation(Allocation):
    """The sequence's total is divided over layers by weight, a layer's over heads by the head rule."""

    def __init__(self, policy: Policy, mean_entries: int, caps: Sequence[Tensor]) -> None:
        self._policy, self._caps = policy, list(caps)
        self._num_heads = [len(layer) for layer in caps]
        self._layer_caps = [int(layer.sum()) for layer in caps]
        self._spares = [worst_case_spare(heads) for heads in self._num_heads]
        self._total = mean_entries * sum(self._num_heads)
        self._known_beforehand: list[float] | None = None
        if policy.layer_rule == "equal":
            self._known_beforehand = [float(heads) for heads in self._num_heads]
        elif policy.layer_rule == "pyramid":
            first = self._layer_caps[0] // self._num_heads[0]
            self._known_beforehand = pyramid_weights(mean_entries, first, self._num_heads)
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
        return min(self._totals[layer] + self._spares[layer], self._layer_caps[layer])

    def counts(self, layer: int, final: bool) -> Tensor:
        """See `Allocation.counts`."""
        self._settle()
        total = self._totals[layer]
        weights = self._head_weights(layer, total)
        if final:
            return head_budgets(weights, total, self._caps[layer])
        return retained_while_trimming(weights, total, self._caps[layer])

    def final_counts(self) -> list[list[int]]:
        """See `Allocation.final_counts`."""
        self._settle()
        weights = [self._head_weights(layer, total) for layer, total in enumerate(self._totals)]
        if len(set(self._num_heads)) > 1:
            each = zip(weights, self._totals, self._caps, strict=True)
            return [head_budgets(own, total, caps).tolist() for own, total, caps in each]
        totals = torch.tensor(self._totals, device="cpu")
        found: list[list[int]] = head_budgets(torch.stack(weights), totals, torch.stack(self._caps)).tolist()
        return found

    def _head_weights(self, layer: int, total: int) -> Tensor:
        """What the shares of a layer's heads are in proportion to, float64 `[H]`, by the policy's head rule."""
        if self._policy.head_rule == "equal":
            return equal_weights(self._num_heads[layer])
        return pooled_weights(self._pooled[layer], self._num_heads[layer], total, self._policy.floor_share)

    def _settle(self) -> None:
        """Divide the total over the layers known by now and drop what is beyond each one's share."""
        known = len(self._weights)
        if self._num_settled == known:
            return
        if self._known_beforehand is None or not self._totals:
            weights = torch.tensor(self._known_beforehand or self._weights, dtype=torch.float64, device="cpu")
            split = layer_budgets(self._total, weights, self._layer_caps[: len(weights)])
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


def allocate(policy: Policy, mean_entries: int, caps: Sequence[Tensor]) -> Allocation:
    """The allocation for a policy's layer rule.

    Args:
        policy: whose rules to follow.
        mean_entries: mean entries a head keeps before the window, `b - w`.
        caps: int64 `[H_l]` on the CPU for every compressed layer, candidates of each head; `n` each in a prompt.
    """
    if policy.layer_rule == "pool":
        return PooledAllocation([len(layer) for layer in caps], mean_entries)
    return DividedAllocation(policy, mean_entries, caps)


def prompt_caps(num_heads: Sequence[int], num_evictable: int) -> list[Tensor]:
    """Candidates of a prompt: the same in every head, int64 `[H_l]` for each layer."""
    return [torch.full((heads,), num_evictable, dtype=torch.int64, device="cpu") for heads in num_heads]
