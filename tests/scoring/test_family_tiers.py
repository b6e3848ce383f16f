"""Scores by projected values, in two tiers, against the loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from lavakv.scoring.criticalkv import criticalkv_score
from lavakv.scoring.defensivekv import defensive_attention, defensivekv_score
from lavakv.scoring.naive_family import snapkv_score_naive
from lavakv.scoring.naive_tiers import (
    best_first_naive,
    criticalkv_score_naive,
    defensive_attention_naive,
    defensivekv_score_naive,
    outright_room_naive,
    projected_norms_naive,
)
from lavakv.scoring.snapkv import snapkv_score
from lavakv.scoring.window import ScoringWindow
from tests.scoring.bounds import EPSILON, Attention, assert_near, attention, expected, largest, projected_error
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
    values, kept = criticalkv_score_naive(twin)
    exact, attended = expected(values, pair[0]), expected(snapkv_score_naive(twin), pair[0])
    norms, error = expected(projected_norms_naive(twin), pair[0]), projected_error(pair[0])
    size = known.largest + 1e-4
    bound = (known.mean_error + EPSILON * size) * (largest(norms) + error) + size * error + EPSILON * largest(exact)
    for window in pair:
        score = criticalkv_score(window)
        assert_near(score.values, exact, bound)
        assert score.outright.tolist() == best_first_naive(snapkv_score(window).tolist(), kept)
        _assert_best_outright(score.outright, attended, min(kept, window.num_evictable), 2 * known.mean_error)


@given(pieces)
def test_defensive_attention_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    exact, known = expected(defensive_attention_naive(naive(pair[0])), pair[0]), attention(pair[0])
    for window in pair:
        assert_near(defensive_attention(window), exact, _defensive_error(window, known))


@given(pieces)
def test_defensivekv_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    twin, known, count = naive(pair[0]), attention(pair[0]), pair[0].num_evictable
    exact = expected(defensivekv_score_naive(twin), pair[0])
    attended = expected(defensive_attention_naive(twin), pair[0])
    norms, error = expected(projected_norms_naive(twin), pair[0]), projected_error(pair[0])
    totals = norms.sum(dim=1)
    least = float(totals[totals > 0].min()) if bool((totals > 0).any()) else 1.0
    # A share moves with its own norm and with the sum of all, by the error of each against that sum.
    share_error = (count + 1) * error / least + (count + 3) * EPSILON
    bound = _defensive_error(pair[0], known) * (1 + share_error) + largest(attended) * share_error
    for window in pair:
        score = defensivekv_score(window)
        assert_near(score.values, exact, bound + EPSILON * largest(exact))
        _assert_outright(score.outright, window, known)


@pytest.mark.parametrize(("budget", "kept"), [(12, 4), (13, 4), (14, 5), (30, 13), (60, 26)])
def test_half_of_the_budget_is_critical_and_ties_go_to_earlier_positions(budget: int, kept: int) -> None:
    assert criticalkv_score(_flat(budget=budget)).outright.tolist() == [[True] * kept + [False] * (26 - kept)] * 2


@pytest.mark.parametrize(("budget", "kept"), [(5, 1), (12, 8), (24, 20), (30, 24), (60, 24)])
def test_nine_tenths_of_the_attention_stay_outright_as_far_as_the_budget_goes(budget: int, kept: int) -> None:
    """The window's rows see 27 to 30 tokens; 23 entries hold less than 0.9 with the window's share, 24 hold more."""
    shares = [sum(1 / seen for seen in range(27, 31)) / 4 * count for count in (23, 24)]
    own = sum((seen - 26) / seen for seen in range(27, 31)) / 4
    assert shares[0] + own < 0.9 < shares[1] + own
    score = defensivekv_score(_flat(budget=budget))
    assert score.outright.tolist() == [[True] * kept + [False] * (26 - kept)] * 2


def _assert_best_outright(outright: Tensor, exact: Tensor, kept: int, error: float) -> None:
    """So many a head, and none left out that is better by more than the error."""
    assert outright.dtype == torch.bool
    assert outright.sum(dim=1).tolist() == [kept] * len(exact)
    for marks, scores in zip(outright, exact, strict=True):
        worst = float(scores[marks].min()) if kept else math.inf
        assert largest(scores[~marks].clamp(min=worst) - worst if kept else scores[:0]) <= error


def _defensive_error(window: ScoringWindow, known: Attention) -> float:
    """Of attention pooled and brought back to its sum: at most fivefold, and by the two sums' errors."""
    return (5 + 6 * window.num_evictable) * known.mean_error + (known.terms + 12) * EPSILON


def _assert_outright(outright: Tensor, window: ScoringWindow, known: Attention) -> None:
    """The most attended entries up to the room there is; which, only up to the error of the sums."""
    assert window.tokens_per_head is not None
    limit = min(window.tokens_per_head - window.queries.shape[2], window.num_evictable)
    error = (window.num_tokens + 1) * known.mean_error + known.terms * EPSILON
    for marks, (attended, room) in zip(outright, outright_room_naive(naive(window)), strict=True):
        kept = int(marks.sum())
        scores = torch.tensor(attended, dtype=torch.float64)[None]
        _assert_best_outright(marks[None], scores, kept, 2 * known.mean_error)
        before = [math.fsum(sorted(attended, reverse=True)[:count]) for count in range(window.num_evictable)]
        assert sum(total < room - error for total in before[:limit]) <= kept
        assert kept <= sum(total < room + error for total in before[:limit])
