from __future__ import annotations

import math
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lavakv
from lavakv.budgets.split import pooled_weights
from lavakv.policy.registry import get_policy
from lavakv.policy.rules import Policy
from lavakv.scoring.tiers import TieredScores
from lavakv.selection.naive import select_naive
from lavakv.selection.ranking import rank
from tests.eviction.controlled import CONTROLLED, controlled_scores
from tests.properties.prompts import (
    Ragged,
    kept_rows,
    prompts,
    prompts_without_ties,
    ragged,
    ragged_weights,
    selected,
    weights_of,
)

policies = st.sampled_from(list(CONTROLLED.values()))


@settings(max_examples=200)
@given(prompts(), policies, st.integers(1, 4), st.data())
def test_select_equals_its_naive_twin(
    layers: list[torch.Tensor], policy: Policy, window: int, data: st.DataObject
) -> None:
    evictable = layers[0].shape[1]
    budget = data.draw(st.integers(window + 1, window + evictable + 2))
    weights = weights_of(policy, layers, budget - window) if evictable else []
    scores = [controlled_scores(policy, layer) for layer in layers]
    outright = [score.protected.tolist() for score in scores if isinstance(score, TieredScores)] or None
    expected = select_naive(policy, [layer.tolist() for layer in layers], weights, budget, window, outright)
    assert kept_rows(selected(policy, layers, budget, window), layers) == expected


@settings(max_examples=200)
@given(ragged(), policies, st.integers(1, 4), st.integers(1, 12))
def test_heads_with_unequally_many_candidates_equal_the_naive_twin(
    sequence: Ragged, policy: Policy, window: int, mean: int
) -> None:
    """Totals are exact, caps respected, and nothing in an empty place is read."""
    budget, places = window + mean, [layer.shape[1] for layer in sequence.layers]
    weights = ragged_weights(policy, sequence, mean)
    selection = lavakv.select(
        policy,
        [controlled_scores(policy, layer) for layer in sequence.layers],
        budget,
        window,
        layer_weights=weights if callable(policy.layer_rule) else None,
        caps=sequence.caps,
    )
    expected = select_naive(policy, sequence.rows, weights, budget, window, sequence.marks(policy), places)
    assert kept_rows(selection, sequence.layers) == expected
    num_heads, held = sum(map(len, sequence.caps)), sum(int(caps.sum()) for caps in sequence.caps)
    assert int(selection.counts.sum()) == min(mean * num_heads, held) + window * num_heads
    for counts, caps in zip(selection.counts, sequence.caps, strict=True):
        assert bool((counts[: len(caps)] - window <= caps).all())


@given(prompts(), policies, st.integers(1, 4), st.data())
def test_full_caps_change_nothing(layers: list[torch.Tensor], policy: Policy, window: int, data: st.DataObject) -> None:
    budget = data.draw(st.integers(window + 1, window + layers[0].shape[1] + 2))
    weights = [1.0] * len(layers) if callable(policy.layer_rule) else None
    scores = [controlled_scores(policy, layer) for layer in layers]
    plain, capped = (
        lavakv.select(policy, scores, budget, window, layer_weights=weights, caps=caps)
        for caps in (None, [torch.full((len(layer),), layer.shape[1]) for layer in layers])
    )
    assert torch.equal(plain.counts, capped.counts)
    assert all(map(torch.equal, plain.flat_positions, capped.flat_positions))


@given(prompts(), policies, st.integers(1, 4), st.data())
def test_padded_and_flat_positions_are_the_same(
    layers: list[torch.Tensor], policy: Policy, window: int, data: st.DataObject
) -> None:
    selection = selected(policy, layers, data.draw(st.integers(window + 1, window + layers[0].shape[1] + 2)), window)
    rows = [[position for row in layer for position in row] for layer in kept_rows(selection, layers)]
    assert [layer.tolist() for layer in selection.flat_positions] == rows
    positions, counts = selection
    assert positions is selection.positions is selection[0]
    assert counts is selection.counts is selection[1]
    assert positions.shape == (*counts.shape, int(counts.max()))


@given(prompts(), policies, st.integers(1, 4), st.data())
def test_totals_are_exact_and_windows_kept(
    layers: list[torch.Tensor], policy: Policy, window: int, data: st.DataObject
) -> None:
    tokens = layers[0].shape[1] + window
    budget = data.draw(st.integers(window + 1, tokens + 2))
    selection = selected(policy, layers, budget, window)
    assert int(selection.counts.sum()) == min(budget, tokens) * sum(len(layer) for layer in layers)
    for rows in kept_rows(selection, layers):
        for row in rows:
            assert row == sorted(set(row))
            assert row[-window:] == list(range(tokens - window, tokens))


@given(prompts(), policies, st.integers(1, 4), st.integers(0, 3))
def test_nothing_goes_from_a_prompt_within_its_budget(
    layers: list[torch.Tensor], policy: Policy, window: int, more: int
) -> None:
    tokens = layers[0].shape[1] + window
    selection = selected(policy, layers, tokens + more, window)
    assert all(row == list(range(tokens)) for rows in kept_rows(selection, layers) for row in rows)


@given(prompts(), st.sampled_from(["pool", "tiered-pool"]), st.integers(1, 2), st.data())
def test_a_pool_guarantees_each_head_its_part(
    layers: list[torch.Tensor], name: str, window: int, data: st.DataObject
) -> None:
    policy = replace(CONTROLLED[name], floor_share=data.draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])))
    budget = data.draw(st.integers(window + 1, window + layers[0].shape[1] + 1))
    selection = selected(policy, layers, budget, window)
    least = min(math.floor(policy.floor_share * (budget - window)), layers[0].shape[1])
    for counts, layer in zip(selection.counts, layers, strict=True):
        assert bool((counts[: len(layer)] - window >= least).all())


@given(prompts_without_ties(), st.integers(1, 3), st.data())
def test_permuting_heads_permutes_what_is_kept_where_nothing_ties(
    layers: list[torch.Tensor], window: int, data: st.DataObject
) -> None:
    evictable = layers[0].shape[1]
    budget = data.draw(st.integers(window + 1, window + evictable))
    orders = [data.draw(st.permutations(range(len(layer)))) for layer in layers]
    kept = kept_rows(lavakv.select("lava", layers, budget, window), layers)
    moved = [layer[order] for layer, order in zip(layers, orders, strict=True)]
    kept_moved = kept_rows(lavakv.select("lava", moved, budget, window), layers)
    for layer, order, before, after in zip(layers, orders, kept, kept_moved, strict=True):
        if not _shares_tie(layer, sum(map(len, before)) - window * len(layer)):
            assert after == [before[head] for head in order]


@given(prompts(), policies, st.data())
def test_strides_and_dtype_change_nothing(layers: list[torch.Tensor], policy: Policy, data: st.DataObject) -> None:
    budget = data.draw(st.integers(3, 3 + layers[0].shape[1]))
    strided = [layer.t().contiguous().t() for layer in layers]
    expected = selected(policy, layers, budget, 2)
    for other in (strided, [layer.double() for layer in layers]):
        assert kept_rows(selected(policy, other, budget, 2), layers) == kept_rows(expected, layers)


def _shares_tie(layer: torch.Tensor, total: int) -> bool:
    """Do the last seat a head gets and the first that none gets tie? Then the lower head has it, whoever that is."""
    num_heads, evictable = layer.shape
    weights = pooled_weights(rank(layer).pooled_heads, num_heads, total, get_policy("lava").floor_share)
    quotients = (weights[:, None] / (2 * torch.arange(evictable) + 1)).flatten().sort(descending=True).values
    return 0 < total < layer.numel() and math.isclose(quotients[total - 1], quotients[total], rel_tol=1e-9)
