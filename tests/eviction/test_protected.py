"""Positions that every head keeps whatever the scores say, in prompts and in later rounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import lavakv
from lavakv.policy.registry import get_policy
from lavakv.policy.rules import Policy
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow
from lavakv.store.masked import MaskedStore
from tests.eviction.engine import Engine

SERVED = {"output_weight", "residual_norms", "prompt", "tokens_per_head"}  # what the engine gives
POLICIES = [
    name for name in lavakv.policies() if not get_policy(name).prompt_only and set(get_policy(name).needs) <= SERVED
]


@st.composite
def engines(draw: st.DrawFn) -> tuple[Engine, list[int]]:
    """A batch with padding, positions to protect within its budget, and how many columns each turn brings."""
    heads = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    window, batch = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    start, count = draw(st.integers(0, 6)), draw(st.integers(1, 5))
    budget = window + count + draw(st.integers(1, 6))
    turns = [draw(st.integers(8, 24)), *draw(st.lists(st.integers(4, 12), max_size=3))]
    padding = [draw(st.integers(0, 5)) for _ in range(batch)]
    policy = get_policy(draw(st.sampled_from(POLICIES)))
    protect = range(start, start + count)
    return Engine(policy, heads, budget, window, padding, seed=draw(st.integers(0, 99)), protect=protect), turns


@settings(max_examples=80, deadline=None)
@given(engines())
def test_every_head_keeps_them_and_totals_stay_exact(case: tuple[Engine, list[int]]) -> None:
    engine, turns = case
    twin = replace(engine, store=MaskedStore)
    for turn, columns in enumerate(turns):
        for one in (engine, twin):
            one.read(columns)
        held = engine.session.lengths().sum(dim=(0, 2))
        if turn:
            engine.evict()
            twin.evict()
        for row, padding in enumerate(engine.padding):
            tokens = engine.num_columns - padding
            due = {position for position in engine.protect if position < tokens}
            for layer in engine.kept():
                assert all(due <= set(positions) for positions in layer[row])
            expected = min(engine.budget * sum(engine.num_heads), int(held[row]))
            assert int(engine.session.lengths()[:, row].sum()) == expected
        assert engine.kept() == twin.kept()


def _scores(window: ScoringWindow) -> Tensor:
    """Small whole numbers, many of them equal, that depend on the entry alone."""
    return (torch.cat(list(window.keys), dim=1)[:, : window.num_evictable, 0] * 2).round().clamp(min=0)


def _as_much(_window: ScoringWindow) -> Tensor:
    return torch.ones((), dtype=torch.float64)


def _tiered(window: ScoringWindow) -> TieredScores:
    scores = _scores(window)
    return TieredScores(scores, torch.cat(list(window.values), dim=1)[:, : window.num_evictable, 0] > 0.8)


RULES = {
    "entropy": Policy("entropy", "", _scores),
    "equal": Policy("equal", "", _scores, "equal", "equal"),
    "pyramid": Policy("pyramid", "", _scores, "pooled", "pyramid"),
    "tiers": Policy("tiers", "", _tiered, "pooled", "equal"),
    "pool": Policy("pool", "", _tiered, "pooled", "pool", floor_share=0.4),
    "plain pool": Policy("plain pool", "", _scores, "pooled", "pool", floor_share=0.4),
}


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(0, 5), st.integers(1, 4), st.booleans())
def test_the_others_compete_as_if_the_protected_were_not_there(
    name: str, seed: int, start: int, count: int, later: bool
) -> None:
    """The same positions are evicted as by a policy that puts the protected last, with a budget that much smaller."""
    protect, budget, window, columns = range(start, start + count), 12, 3, 30
    rule = RULES[name]

    def without(one: ScoringWindow) -> Tensor | TieredScores:
        score = rule.score(one)
        hidden = (one.candidate_positions >= protect.start) & (one.candidate_positions < protect.stop)
        if isinstance(score, TieredScores):
            return TieredScores(score[0].masked_fill(hidden, -1.0), score[1] & ~hidden)
        return score.masked_fill(hidden, -1.0)

    weight = rule.layer_rule if rule.layer_rule != "entropy" else _as_much
    own = replace(rule, layer_rule=weight)
    engine = Engine(own, [2, 3], budget, window, [0], seed=seed, protect=protect)
    other = Engine(replace(own, score=without), [2, 3], budget - count, window, [0], seed=seed)
    for one in (engine, other):
        one.read(columns, budget=columns if later else None)
        if later:
            one.evict()
    for layer, expected in zip(engine.kept(), other.kept(), strict=True):
        for positions, others in zip(layer[0], expected[0], strict=True):
            assert set(positions) - set(protect) == set(others) - set(protect)
