"""The least budget of a sequence whose estimated loss is within a tolerance, found once all its layers are ranked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from lavakv.budgets.spec import Tolerance
from lavakv.errors import BudgetError, PolicyError
from lavakv.eviction.records import PendingLayer, PlacedLayer, RankedLayer, relative_loss
from lavakv.eviction.shares import SequencePlan, Shares
from lavakv.policy.rules import Policy


def sequence_plan(
    num_tokens: int, num_padding: int, budget: int | Tolerance, window: int, policy: Policy, protect: range = range(0)
) -> SequencePlan:
    """What is known of a sequence whose budget is given, or still to be found by a tolerance.

    Until it is found, the plan has the least budget there can be: an entry a head beside the window and what is
    protected. A sequence that this covers keeps everything, and nothing is to be found.

    Args:
        num_tokens: real tokens seen so far.
        num_padding: columns of left padding before them.
        budget: mean entries per head, window included, or the tolerance.
        window: window size.
        policy: what decides.
        protect: original positions that every head keeps.
    """
    if not isinstance(budget, Tolerance):
        return SequencePlan(num_tokens, num_padding, budget, window, policy, protect)
    least = window + len(protect) + 1
    return SequencePlan(num_tokens, num_padding, least, window, policy, protect, budget)


def check_scores_first(policy: Policy) -> None:
    """Check that a policy can score without a budget, so that one can be found by its scores.

    Raises:
        PolicyError: it cannot.
    """
    if "tokens_per_head" in policy.needs:
        raise PolicyError(
            f"policy {policy.name!r}", expected="a policy whose scores do not depend on the budget, for max_loss",
            got="one that scores for one budget", fix="Use another policy, or give the budget in another way.",
        )  # fmt: skip


def decided(
    plan: SequencePlan, num_heads: Sequence[int], layers: Sequence[RankedLayer], caps: Sequence[Tensor] | None = None
) -> SequencePlan:
    """The plan with the budget that its tolerance leads to.

    The loss at that budget is within the tolerance; with one entry per head less it is not, or that is the least
    budget. Losses are those that the round then reports. Where a tolerance has a largest budget, that is used
    where the loss would need more.

    Args:
        plan: whose budget is open.
        num_heads: KV heads of each layer.
        layers: the sequence in each layer, ranked.
        caps: int64 `[H_l]` on the CPU, candidates of each head of each layer; None for a prompt.

    Raises:
        BudgetError: the estimated loss is no finite number.
    """
    assert plan.tolerance is not None
    max_loss, most = plan.tolerance
    least = plan.tokens_per_head
    too_small, enough = least - 1, plan.num_tokens
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        found = replace(plan, tokens_per_head=middle, tolerance=None)
        if _loss(found, num_heads, layers, caps) <= max_loss:
            enough = middle
        else:
            too_small = middle
    budget = enough if most is None else max(min(enough, most), least)
    return replace(plan, tokens_per_head=budget, tolerance=None)


def ranked_for(plan: SequencePlan, layer: RankedLayer) -> RankedLayer:
    """A layer that was ranked for another budget, ranked for the plan's."""
    is_pool = plan.policy.layer_rule == "pool"  # elsewhere no budget changes the order
    return layer.with_minimum(plan.min_entries_per_head) if is_pool else layer


def _loss(
    plan: SequencePlan, num_heads: Sequence[int], layers: Sequence[RankedLayer], caps: Sequence[Tensor] | None
) -> float:
    """The estimated loss of a budget, as a share of that of evicting everything before the window."""
    shares = Shares([plan], num_heads, None if caps is None else [caps])
    if shares.keeps_all(0):
        return 0.0
    is_pool = plan.policy.layer_rule == "pool"
    for layer in layers:
        shares.add([PendingLayer(ranked_for(plan, layer), is_pool, shares.total(0))])
    placed = [PlacedLayer(layer.loss, layer.total_loss, layer.weight) for layer in layers]
    kept = [one.kept_loss(counts[0]) for one, counts in zip(placed, shares.final_counts(), strict=True)]
    loss = [one.without(own) for one, own in zip(placed, kept, strict=True)]
    total = [one.total_loss for one in placed]
    if not math.isfinite(math.fsum(total)):
        raise BudgetError(
            "max_loss", expected="estimated losses that are finite", got=str(math.fsum(total)),
            fix="Check the model's weights and dtype, or give the budget in another way.",
        )  # fmt: skip
    return relative_loss(loss, total)
