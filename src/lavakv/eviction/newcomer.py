"""One sequence in the layer that arrived last: ranked, and competing once the host knows how."""

from __future__ import annotations

from lavakv.allocation import Allocation
from lavakv.eviction.plan import PromptPlan
from lavakv.eviction.readback import Readback
from lavakv.eviction.records import RankedPrompt


class Newcomer:
    """A ranked layer and what its sequence's allocation asks of it, on the way to the host.

    Args:
        ranked: the layer's entries, best first.
        plan: what is known of the sequence.
        most_entries: entries that the sequence keeps in all its layers; no layer's share is larger.
    """

    def __init__(self, ranked: RankedPrompt, plan: PromptPlan, most_entries: int) -> None:
        self.ranked = ranked
        heads, scores, tiers = ranked.ranking[1:]
        self._heads = Readback(heads[:most_entries])
        self._others = None
        if plan.policy.layer_rule == "pool":
            self._others = Readback(scores[:most_entries]), None if tiers is None else Readback(tiers[:most_entries])

    @property
    def deferred(self) -> bool:
        """Is anything that the host must know still on its way?"""
        return self._heads.deferred or self.ranked.layer_weight.deferred

    def compete(self, allocation: Allocation) -> None:
        """Join the layers known to a sequence's allocation; waits for what is on its way.

        Raises:
            PolicyError: the layer's scores cannot be used, named with policy and layer.
        """
        weight, parts = self.ranked.weight, {"pooled_heads": self._heads.get()}
        if self._others is not None:
            scores, tiers = self._others
            parts |= {"pooled_scores": scores.get()} | ({} if tiers is None else {"pooled_tiers": tiers.get()})
        allocation.add(self.ranked.ranking._replace(**parts), weight)
