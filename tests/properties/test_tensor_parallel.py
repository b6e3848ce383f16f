"""However a layer's heads are split over ranks, weights, counts and kept positions are those of a single rank."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import lavakv
from lavakv.policy.numbers import score_numbers
from lavakv.policy.rules import Policy
from lavakv.scoring.tiers import TieredScores
from lavakv.selection.naive import merge_candidates_naive
from lavakv.selection.ranking import Ranking, rank
from lavakv.selection.tensor_parallel import (
    Candidates,
    candidates,
    cut_to_pool,
    head_counts,
    kept_positions,
    layer_max_entries,
    merge_candidates,
    merged_weight,
    partial_statistics,
)
from tests.eviction.controlled import CONTROLLED, controlled_scores
from tests.properties.prompts import Ragged, ragged, ragged_weights

WINDOW = 3
policies = st.sampled_from(list(CONTROLLED.values()))


class Rank(NamedTuple):
    """What one rank knows: for each layer the numbers of its heads, their scores and their candidates."""

    heads: list[list[int]]
    scores: list[Tensor | TieredScores]
    caps: list[Tensor]


@st.composite
def ranks(draw: st.DrawFn, sequence: Ragged, policy: Policy) -> list[Rank]:
    """Any split of the heads over one to four ranks: not only in runs, and some ranks may hold none."""
    num_ranks = draw(st.integers(1, 4))
    parts = [Rank([], [], []) for _ in range(num_ranks)]
    for layer, caps in zip(sequence.layers, sequence.caps, strict=True):
        owners = draw(st.lists(st.integers(0, num_ranks - 1), min_size=len(layer), max_size=len(layer)))
        score = controlled_scores(policy, layer)
        for number, part in enumerate(parts):
            heads = [head for head, owner in enumerate(owners) if owner == number]
            part.heads.append(heads)
            is_tiered = isinstance(score, TieredScores)
            part.scores.append(TieredScores(*(own[heads] for own in score)) if is_tiered else score[heads])
            part.caps.append(caps[heads])
    return parts


def _values(score: Tensor | TieredScores) -> Tensor:
    return score.values if isinstance(score, TieredScores) else score


def _in_head_order(heads: list[list[int]], parts: list[Tensor]) -> Tensor:
    numbers = torch.tensor([head for own in heads for head in own])
    return torch.cat(parts)[numbers.argsort()]


def _listed(entries: Candidates | Ranking) -> list[tuple[int, float, int]]:
    heads, scores, tiers = entries[-3:]
    found = [0] * len(heads) if tiers is None else tiers.tolist()
    return list(zip(found, scores.tolist(), heads.tolist(), strict=True))


@settings(max_examples=200)
@given(st.data(), ragged(), policies, st.integers(1, 9), st.booleans())
def test_any_split_over_ranks_keeps_what_one_rank_keeps(
    data: st.DataObject, sequence: Ragged, policy: Policy, mean: int, is_cut: bool
) -> None:
    parts = data.draw(ranks(sequence, policy))
    num_layers, num_heads = len(sequence.layers), sum(map(len, sequence.caps))
    least, total = policy.min_entries_per_head(mean + WINDOW, WINDOW), mean * num_heads
    rankings = [[rank(s, least, c) for s, c in zip(part.scores, part.caps, strict=True)] for part in parts]
    weights = _weights(policy, sequence, parts, mean)
    limits = layer_max_entries(policy, weights, sequence.caps, mean) if is_cut else [total] * num_layers
    sent = [
        [candidates(*each) for each in zip(own, part.heads, limits, strict=True)]
        for own, part in zip(rankings, parts, strict=True)
    ]
    if is_cut and policy.layer_rule == "pool":
        sent = [cut_to_pool(layers, total) for layers in sent]
        assert all(sum(len(layer.heads) for layer in layers) <= total for layers in sent)
    merged = [merge_candidates([layers[layer] for layers in sent], limits[layer]) for layer in range(num_layers)]
    counts = head_counts(policy, merged, weights, sequence.caps, mean)
    alone = lavakv.select(
        policy,
        [controlled_scores(policy, layer) for layer in sequence.layers],
        mean + WINDOW,
        WINDOW,
        layer_weights=weights if callable(policy.layer_rule) else None,
        caps=sequence.caps,
    )
    assert [[count + WINDOW for count in layer] for layer in counts] == [
        own[: len(layer)].tolist() for own, layer in zip(alone.counts, sequence.layers, strict=True)
    ]
    for layer in range(num_layers):
        ends = alone.counts[layer].cumsum(0).tolist()
        rows = [
            alone.flat_positions[layer][end - n : end].tolist()
            for end, n in zip(ends, alone.counts[layer], strict=True)
        ]
        for part, own in zip(parts, rankings, strict=True):
            kept = kept_positions(own[layer].positions, [counts[layer][head] for head in part.heads[layer]], WINDOW)
            assert kept.tolist() == [place for head in part.heads[layer] for place in rows[head]]


def _weights(policy: Policy, sequence: Ragged, parts: list[Rank], mean: int) -> list[float]:
    """Merged ones, after a comparison with those of one rank."""
    if callable(policy.layer_rule):
        return ragged_weights(policy, sequence, mean)
    weights = []
    for layer, (values, caps) in enumerate(zip(sequence.layers, sequence.caps, strict=True)):
        rows = [partial_statistics(policy, _values(part.scores[layer]), part.caps[layer]) for part in parts]
        statistics = _in_head_order([part.heads[layer] for part in parts], rows)
        weights.append(merged_weight(policy, statistics, values.shape[1], caps, layer))
        assert weights[-1] == score_numbers(policy, values, caps)[-1]
    return weights


@settings(max_examples=200)
@given(st.data(), ragged(), policies, st.integers(0, 4), st.integers(0, 40))
def test_merged_candidates_are_those_of_one_rank_in_its_order(
    data: st.DataObject, sequence: Ragged, policy: Policy, least: int, most: int
) -> None:
    parts = data.draw(ranks(sequence, policy))
    for layer, caps in enumerate(sequence.caps):
        own = [rank(part.scores[layer], least, part.caps[layer]) for part in parts]
        sent = [candidates(one, part.heads[layer], most) for one, part in zip(own, parts, strict=True)]
        alone = rank(controlled_scores(policy, sequence.layers[layer]), least, caps)
        merged = merge_candidates(sent, most)
        assert _listed(merged) == _listed(alone)[:most]
        assert _listed(merge_candidates(sent)) == merge_candidates_naive([_listed(part) for part in sent])
        assert (merged.tiers is None) == (alone.pooled_tiers is None)
        assert merged.heads.dtype == torch.int16
