"""What is known of each sequence before a round, and what each head of each layer keeps by what is known so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lavakv.budgets.spec import Tolerance
from lavakv.budgets.worst_case import SLACK, worst_case_spare
from lavakv.eviction.records import PendingLayer
from lavakv.policy.rules import Policy
from lavakv.selection.allocation import Allocation, allocate, prompt_caps


@dataclass(frozen=True, slots=True)
class SequencePlan:
    """One sequence of the batch.

    Attributes:
        num_tokens: real tokens `N` seen so far, those of the window included.
        num_padding: columns of left padding before them.
        tokens_per_head: budget `b`.
        window: window size `w`.
        policy: what decides.
        protect: original positions that every head keeps, within its budget.
        tolerance: what the budget is still to be found by, or None where it is known.
    """

    num_tokens: int
    num_padding: int
    tokens_per_head: int
    window: int
    policy: Policy
    protect: range = range(0)
    tolerance: Tolerance | None = None

    @property
    def is_open(self) -> bool:
        """Whether the budget still has to be found, for which all layers must be scored."""
        return self.tolerance is not None and not self.keeps_all

    @property
    def scored_for(self) -> int | None:
        """The budget, for scores that say that they read it; None while it is open, for it is found by the scores."""
        return None if self.is_open or not self.policy.scores_by_budget else self.tokens_per_head

    @property
    def protected(self) -> range:
        """Those of the positions to protect that stand before the window."""
        return range(min(self.protect.start, self.num_evictable), min(self.protect.stop, self.num_evictable))

    @property
    def min_entries_per_head(self) -> int:
        """Entries every head keeps before heads compete, beside what is protected."""
        return self.policy.min_entries_per_head(self.tokens_per_head - len(self.protected), self.window)

    @property
    def num_evictable(self) -> int:
        """Positions before the window."""
        return max(self.num_tokens - self.window, 0)

    @property
    def keeps_all(self) -> bool:
        """Whether all tokens seen are within the budget."""
        return self.num_tokens <= self.tokens_per_head

    @property
    def mean_entries(self) -> int:
        """Mean entries a head keeps before the window."""
        return self.num_evictable if self.keeps_all else self.tokens_per_head - self.window


class Shares:
    """The allocations of all sequences of a batch.

    Args:
        plans: one a sequence.
        num_heads: KV heads of each layer.
        caps: for each sequence int64 `[H_l]` on the CPU for every layer, candidates of each head; None for prompts,
            whose heads all have the same number.

    Attributes:
        bound: entries that all layers together may have allocated while they are trimmed, windows excluded.
    """

    def __init__(
        self, plans: Sequence[SequencePlan], num_heads: Sequence[int], caps: Sequence[Sequence[Tensor]] | None
    ) -> None:
        self._num_heads = list(num_heads)
        self._caps = [prompt_caps(num_heads, plan.num_evictable) for plan in plans] if caps is None else caps
        self._mean, self._fits = [plan.mean_entries for plan in plans], [plan.keeps_all for plan in plans]
        self._pinned = [len(plan.protected) for plan in plans]
        self._candidates = [sum(int(layer.sum()) for layer in own) for own in self._caps]
        self._allocations = [
            None if self.keeps_all(row) else self._competition(row, plan.policy) for row, plan in enumerate(plans)
        ]
        self.bound = self._bound()

    def _competition(self, sequence: int, policy: Policy) -> Allocation:
        """The allocation of what is not protected."""
        pinned = self._pinned[sequence]
        return allocate(policy, self._mean[sequence] - pinned, [layer - pinned for layer in self._caps[sequence]])

    def keeps_all(self, sequence: int) -> bool:
        """Whether all tokens of a sequence, or all that it still holds of them, fit into its budget."""
        return self._fits[sequence] or self._candidates[sequence] <= self.total(sequence)

    def caps(self, sequence: int, layer: int) -> Tensor:
        """Candidates of each head, int64 `[H]` on the CPU."""
        return self._caps[sequence][layer]

    def total(self, sequence: int) -> int:
        """Entries that a sequence keeps before its window, over all heads and layers, as far as it has them."""
        return self._mean[sequence] * sum(self._num_heads)

    def add(self, layer: Sequence[PendingLayer | None]) -> None:
        """Let the next layer compete for each sequence's budget; waits for what is on its way to the host."""
        for pending, allocation in zip(layer, self._allocations, strict=True):
            if pending is not None:
                assert allocation is not None
                pending.add_to(allocation)

    def needed(self, layer: int) -> int:
        """Upper bound on the entries a layer must keep now, over all sequences, windows excluded."""
        return sum(
            int(own[layer].sum()) if allocation is None else allocation.most(layer) + pinned * self._num_heads[layer]
            for own, allocation, pinned in zip(self._caps, self._allocations, self._pinned, strict=True)
        )

    def counts(self, layer: int, final: bool) -> list[list[int]]:
        """Entries each head of a layer keeps of each sequence, window excluded; exact once all layers are known."""
        return [
            own[layer].tolist() if allocation is None else (allocation.counts(layer, final) + pinned).tolist()
            for own, allocation, pinned in zip(self._caps, self._allocations, self._pinned, strict=True)
        ]

    def final_counts(self) -> list[list[list[int]]]:
        """The same of all layers, `[layers][B][H]`, once all are known."""
        rows = [
            [layer.tolist() for layer in own]
            if allocation is None
            else [[count + pinned for count in layer] for layer in allocation.final_counts()]
            for own, allocation, pinned in zip(self._caps, self._allocations, self._pinned, strict=True)
        ]
        return [list(layer) for layer in zip(*rows, strict=True)]

    def _bound(self) -> int:
        spare = len(self._mean) * sum(worst_case_spare(heads) for heads in self._num_heads)
        return spare + sum(
            self._candidates[row] if self.keeps_all(row) else int(SLACK * self.total(row))
            for row in range(len(self._mean))
        )
