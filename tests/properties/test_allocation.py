"""Budgets of one sequence, whatever the rules: they only shrink, end exact, and never pass what there is."""

from __future__ import annotations

from itertools import product

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavakv.policy.numbers import score_weight
from lavakv.policy.rules import Policy
from lavakv.selection.allocation import allocate, prompt_caps
from lavakv.selection.ranking import rank
from tests.eviction.controlled import CONTROLLED, controlled_scores, controlled_weights
from tests.properties.prompts import prompts

policies = st.sampled_from(list(CONTROLLED.values()))


@settings(max_examples=200)
@given(prompts(), policies, st.data())
def test_budgets_only_shrink_and_end_exact(layers: list[torch.Tensor], policy: Policy, data: st.DataObject) -> None:
    num_heads, evictable = [len(layer) for layer in layers], layers[0].shape[1]
    mean = data.draw(st.integers(min(1, evictable), evictable))
    allocation = allocate(policy, mean, prompt_caps(num_heads, evictable))
    most: list[int] = []
    retained: list[torch.Tensor] = []
    for index, layer in enumerate(layers):
        own = controlled_weights(policy, [layer]) if layer.numel() else None
        weight = own[0] if own else score_weight(policy, layer, index)
        allocation.add(rank(controlled_scores(policy, layer), policy.min_entries_per_head(mean + 4, 4)), weight)
        most, before = [allocation.most(known) for known in range(index + 1)], most
        assert all(now <= then for now, then in zip(most, before, strict=False))
        retained, earlier = [allocation.counts(known, final=False) for known in range(index + 1)], retained
        assert all(bool((now <= then).all()) for now, then in zip(retained, earlier, strict=False))
        assert all(int(counts.sum()) <= bound for counts, bound in zip(retained, most, strict=True))
    final = [allocation.counts(layer, final=True) for layer in range(len(layers))]
    assert allocation.final_counts() == [counts.tolist() for counts in final]
    assert sum(int(counts.sum()) for counts in final) == mean * sum(num_heads)
    for counts, kept, heads in zip(final, retained, num_heads, strict=True):
        assert counts.shape == (heads,)
        assert bool((counts <= kept).all())
        assert bool(((counts >= 0) & (counts <= evictable)).all())


def test_what_is_retained_covers_a_share_that_grows_as_the_total_shrinks() -> None:
    """Rounding can give a head more seats of a smaller total; the entries must still be there."""
    generator, grown = torch.Generator().manual_seed(0), 0
    for heads, weight in product([1, 2, 3, 4, 5, 6] * 10, (0.05, 0.1, 0.2)):
        scores = torch.rand(4, 6, generator=generator) ** (4 * torch.rand(4, 1, generator=generator))
        allocation = allocate(CONTROLLED["lava"], 2, prompt_caps([4, heads], 6))
        allocation.add(rank(scores), 1.0)
        retained, rounded = allocation.counts(0, final=False), allocation.counts(0, final=True)
        allocation.add(rank(torch.ones(heads, 6)), weight)
        final = allocation.counts(0, final=True)
        assert bool((final <= retained).all())
        grown += int((final > rounded).any())
    assert grown, "no case of a growing share"
