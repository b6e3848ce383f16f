"""What the window looks at and what follows it, and its share of the budget."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavakv.scoring.followed import followed_attention, with_share
from lavakv.scoring.naive.reach import followed_attention_naive, with_share_naive
from lavakv.scoring.window import ScoringWindow
from tests.scoring.bounds import attention
from tests.scoring.cases import naive, pairs, windows


@given(pairs(windows()))
def test_what_follows_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    heads = range(len(pair[0].queries))
    exact = torch.tensor([followed_attention_naive(naive(pair[0]), head) for head in heads], dtype=torch.float64)
    error = attention(pair[0]).mean_error
    for window in pair:
        assert bool(((followed_attention(window).double() - exact.view(len(heads), -1)).abs() <= error).all())


def test_the_eight_tokens_behind_count_three_tenths() -> None:
    """One entry that every row looks at."""
    keys, queries = torch.zeros(1, 40, 2), torch.ones(1, 1, 4, 2)
    keys[0, 10] = 8.0
    followed = followed_attention(ScoringWindow(queries, [keys], [keys], 1.0))[0]
    assert int(followed.argmax()) == 10
    torch.testing.assert_close(followed[11:19], (0.3 * followed[10]).expand(8))
    torch.testing.assert_close(followed[[9, 19]], followed[0].expand(2))


@st.composite
def _scores(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, int]:
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
def test_the_share_equals_the_loops(case: tuple[torch.Tensor, torch.Tensor, int]) -> None:
    scores, others, entries = case
    exact = torch.tensor(with_share_naive(scores.tolist(), others.tolist(), entries), dtype=torch.float64)
    torch.testing.assert_close(with_share(*case).double(), exact.view(scores.shape), rtol=1e-6, atol=0)


@given(_scores())
def test_entries_only_gain_and_nothing_overflows(case: tuple[torch.Tensor, torch.Tensor, int]) -> None:
    shared = with_share(*case)
    assert bool((shared >= case[0]).all())
    assert bool(shared.isfinite().all())


@pytest.mark.parametrize(("entries", "chosen"), [(27, 1), (96, 24), (192, 96), (384, 192)])
def test_a_quarter_of_what_is_kept_at_most_is_lifted(entries: int, chosen: int) -> None:
    """Two heads; no entry has both scores, so that those lifted to the least kept one are the share."""
    scores, others = torch.rand(2, 2, 1000, generator=torch.Generator().manual_seed(0))
    scores[:, 500:], others[:, :500] = 0, 0
    least = scores.flatten().topk(2 * entries).values[-1]
    lifted = with_share(scores, others, entries)[:, 500:]
    assert int((lifted >= least * (1 - 1e-6)).sum()) == chosen


@pytest.mark.parametrize("entries", [0, 1, 13, 1000])
def test_few_entries_and_all_of_them_leave_the_scores_alone(entries: int) -> None:
    scores, others = torch.rand(2, 2, 1000, generator=torch.Generator().manual_seed(0))
    assert with_share(scores, others, entries) is scores
