"""`reach-question`: what the window looks at and what follows it, and its share of the budget."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from lavakv.scoring.naive.reach_question import (
    followed_attention_naive,
    reach_question_score_naive,
    with_share_naive,
)
from lavakv.scoring.prompt import RowTotals
from lavakv.scoring.reach import reach_score
from lavakv.scoring.reach_question import followed_attention, reach_question_score, with_share
from lavakv.scoring.window import ScoringWindow
from tests.scoring.bounds import EPSILON, attention
from tests.scoring.cases import full_windows, naive, pairs, ragged_windows, windows
from tests.scoring.reach_bounds import length_bounds, long_window, score_bounds


@given(pairs(full_windows()))
def test_the_score_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    assume(pair[0].rotation is not None)
    _assert_equals_the_loops(*pair)


@pytest.mark.parametrize("budget", [12, 40, 150, 280, 300])
def test_long_prompts_equal_the_loops(budget: int) -> None:
    _assert_equals_the_loops(replace(long_window(0, RowTotals(), slice(30, 35)), tokens_per_head=budget))


def _assert_equals_the_loops(whole: ScoringWindow, *cut: ScoringWindow) -> None:
    """A window, and the same one in chunks and blocks: order statistics lie between those of their bounds."""
    exact = torch.tensor(reach_question_score_naive(naive(whole)), dtype=torch.float64).view(len(whole.queries), -1)
    paid, error = _followed(whole), attention(whole).mean_error
    least, most = length_bounds(whole)
    others = (paid - error).clamp(min=0) * least, (paid + error) * most
    assert whole.tokens_per_head is not None
    least, most = _shared_bounds(score_bounds(whole), others, whole.tokens_per_head - whole.queries.shape[2])
    for score in (exact, *(reach_question_score(window).double() for window in (whole, *cut))):
        assert bool(((least <= score) & (score <= most)).all())


def _shared_bounds(scores: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor], entries: int) -> tuple[Tensor, Tensor]:
    """Least and most of both scores in one."""
    kept = entries * len(scores[0])
    chosen = kept * min(max(entries - 32, 0), 128) // 256
    if not 0 < chosen <= kept < scores[0].numel():
        return scores
    reached = [part.flatten().sort(descending=True).values[kept - 1] for part in scores]
    divisors = [part.flatten().sort(descending=True).values[chosen - 1] for part in others]
    lowest = (others[0] * (reached[0] / divisors[1]) * (1 - 4 * EPSILON)).nan_to_num(nan=0.0)
    highest = (others[1] * (reached[1] / divisors[0]) * (1 + 4 * EPSILON)).nan_to_num(nan=0.0)
    return torch.maximum(scores[0], lowest), torch.maximum(scores[1], highest)


def _followed(window: ScoringWindow) -> Tensor:
    heads = range(len(window.queries))
    return torch.tensor([followed_attention_naive(naive(window), head) for head in heads], dtype=torch.float64)


@given(ragged_windows())
def test_a_later_round_has_no_share(window: ScoringWindow) -> None:
    torch.testing.assert_close(reach_question_score(window), reach_score(window), rtol=0, atol=0)


@given(pairs(windows()))
def test_what_follows_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    exact, error = _followed(pair[0]), attention(pair[0]).mean_error
    for window in pair:
        assert bool(((followed_attention(window).double() - exact).abs() <= error).all())


def test_the_eight_tokens_behind_count_three_tenths() -> None:
    """One entry that every row looks at."""
    keys, queries = torch.zeros(1, 40, 2), torch.ones(1, 1, 4, 2)
    keys[0, 10] = 8.0
    followed = followed_attention(ScoringWindow(queries, [keys], [keys], 1.0))[0]
    assert int(followed.argmax()) == 10
    torch.testing.assert_close(followed[11:19], (0.3 * followed[10]).expand(8))
    torch.testing.assert_close(followed[[9, 19]], followed[0].expand(2))


@st.composite
def _scores(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Scores with ties and zeros, of any size; entries from below none to beyond all."""
    heads, n = draw(st.integers(1, 3)), draw(st.integers(0, 400))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    scores, others = torch.rand(2, heads, n, generator=generator) ** draw(st.sampled_from([1, 6]))
    if draw(st.booleans()):
        scores, others = ((part * 8).round() / 8 for part in (scores, others))
    if draw(st.booleans()):
        others = others * (torch.rand(heads, n, generator=generator) < 0.1)
    return scores, others * draw(st.sampled_from([1.0, 1e-20, 1e20])), draw(st.integers(-4, 420))


@given(_scores())
def test_the_share_equals_the_loops(case: tuple[Tensor, Tensor, int]) -> None:
    scores, others, entries = case
    exact = torch.tensor(with_share_naive(scores.tolist(), others.tolist(), entries), dtype=torch.float64)
    torch.testing.assert_close(with_share(*case).double(), exact.view(scores.shape), rtol=1e-6, atol=0)


@given(_scores())
def test_entries_only_gain_and_nothing_overflows(case: tuple[Tensor, Tensor, int]) -> None:
    shared = with_share(*case)
    assert bool((shared >= case[0]).all())
    assert bool(shared.isfinite().all())


@pytest.mark.parametrize(("entries", "chosen"), [(34, 0), (35, 0), (37, 1), (96, 48), (160, 160), (384, 384)])
def test_half_of_what_is_kept_at_most_is_lifted(entries: int, chosen: int) -> None:
    """Two heads; no entry has both scores, so that those lifted to the least kept one are the share."""
    scores, others = torch.rand(2, 2, 1000, generator=torch.Generator().manual_seed(0))
    scores[:, 500:], others[:, :500] = 0, 0
    least = scores.flatten().topk(2 * entries).values[-1]
    lifted = with_share(scores, others, entries)[:, 500:]
    assert int((lifted >= least * (1 - 1e-6)).sum()) == chosen


@pytest.mark.parametrize("entries", [0, 1, 32, 1000])
def test_few_entries_and_all_of_them_leave_the_scores_alone(entries: int) -> None:
    scores, others = torch.rand(2, 2, 1000, generator=torch.Generator().manual_seed(0))
    assert with_share(scores, others, entries) is scores
