"""Scores by projected values, in two tiers, against the loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

from lavakv.scoring.criticalkv import criticalkv_score
from lavakv.scoring.defensivekv import defensive_attention, defensivekv_score
from lavakv.scoring.naive.family import snapkv_score_naive
from lavakv.scoring.naive.tiers import (
    best_first_naive,
    criticalkv_score_naive,
    projected_norms_naive,
)
from lavakv.scoring.snapkv import snapkv_score
from lavakv.scoring.window import ScoringWindow
from tests.scoring import twins
from tests.scoring.bounds import (
    assert_best_protected,
    assert_near,
    assert_protected,
    attention,
    expected,
    projected_error,
)
from tests.scoring.cases import full_windows, naive, pairs

pieces = pairs(full_windows())


def _flat(num_tokens: int = 30, window: int = 4, budget: int = 12) -> ScoringWindow:
    """Attention the same everywhere, values of one."""
    queries, chunk = torch.ones(2, 2, window, 4), torch.zeros(2, num_tokens, 4)
    weight = torch.ones(2, 2, 4, 3)
    return ScoringWindow(queries, [chunk], [chunk + 1], 1.0, tokens_per_head=budget, output_weight=weight)


@given(pieces)
def test_projected_norms_equal_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    exact = expected(projected_norms_naive(naive(pair[0])), pair[0])
    for window in pair:
        assert window.projected_norms.shape == (*window.queries.shape[:2], window.num_evictable)
        assert_near(window.projected_norms.mean(dim=1), exact, projected_error(pair[0]))


@given(pieces)
def test_criticalkv_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    twin, known = naive(pair[0]), attention(pair[0])
    kept, attended = criticalkv_score_naive(twin)[1], expected(snapkv_score_naive(twin), pair[0])
    exact, bound = twins.criticalkv(pair[0], known)
    for window in pair:
        score = criticalkv_score(window)
        assert_near(score.values, exact, bound)
        assert score.protected.tolist() == best_first_naive(snapkv_score(window).tolist(), kept)
        assert_best_protected(score.protected, attended, min(kept, window.num_evictable), 2 * known.mean_error)


@given(pieces)
def test_defensive_attention_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    exact, bound = twins.defensive_attention(pair[0], attention(pair[0]))
    for window in pair:
        assert_near(defensive_attention(window), exact, bound)


@given(pieces)
def test_defensivekv_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    known = attention(pair[0])
    exact, bound = twins.defensivekv(pair[0], known)
    for window in pair:
        score = defensivekv_score(window)
        assert_near(score.values, exact, bound)
        assert_protected(score.protected, window, known)


@pytest.mark.parametrize(("budget", "kept"), [(12, 4), (13, 4), (14, 5), (30, 13), (60, 26)])
def test_half_of_the_budget_is_critical_and_ties_go_to_earlier_positions(budget: int, kept: int) -> None:
    assert criticalkv_score(_flat(budget=budget)).protected.tolist() == [[True] * kept + [False] * (26 - kept)] * 2


@pytest.mark.parametrize(("budget", "kept"), [(5, 1), (12, 8), (24, 20), (30, 24), (60, 24)])
def test_nine_tenths_of_the_attention_are_protected_as_far_as_the_budget_goes(budget: int, kept: int) -> None:
    """The window's rows see 27 to 30 tokens; 23 entries hold less than 0.9 with the window's share, 24 hold more."""
    shares = [sum(1 / seen for seen in range(27, 31)) / 4 * count for count in (23, 24)]
    own = sum((seen - 26) / seen for seen in range(27, 31)) / 4
    assert shares[0] + own < 0.9 < shares[1] + own
    score = defensivekv_score(_flat(budget=budget))
    assert score.protected.tolist() == [[True] * kept + [False] * (26 - kept)] * 2


def test_the_old_name_of_what_is_protected_can_still_be_read() -> None:
    score = criticalkv_score(_flat())
    with pytest.deprecated_call(match="protected"):
        assert score.outright is score.protected
