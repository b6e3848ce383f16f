"""`caote` and `dropkv` against the loops, against entries that are really left out, and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import avg_pool1d

from lavakv.scoring.caote import caote_score
from lavakv.scoring.dropkv import dropkv_score
from lavakv.scoring.naive.leave_one_out import caote_score_naive, dropkv_score_naive
from lavakv.scoring.naive.window import NaiveWindow
from lavakv.scoring.window import ScoringWindow
from tests.scoring.bounds import expected
from tests.scoring.cases import alone, full_windows, naive, pairs, ragged_windows
from tests.scoring.leave_one_out_bounds import known_caote, known_dropkv
from tests.scoring.residual_bounds import Known, relative_error

Score = Callable[[ScoringWindow], Tensor]
SCORES: dict[Score, tuple[Callable[[NaiveWindow], list[list[float]]], Callable[..., Known]]] = {
    caote_score: (caote_score_naive, known_caote),
    dropkv_score: (dropkv_score_naive, known_dropkv),
}
BOTH = pytest.mark.parametrize("score", SCORES, ids=lambda score: score.__name__)


@st.composite
def peaked(draw: st.DrawFn) -> ScoringWindow:
    """Windows some of which pay nearly all their attention to one position."""
    window = draw(full_windows())
    return replace(window, queries=draw(st.sampled_from([1, 1, 6])) * window.queries)


@BOTH
def test_scores_equal_the_loops(score: Score) -> None:
    twin, bound = SCORES[score]

    @given(pairs(peaked()))
    def check(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
        exact, known = expected(twin(naive(pair[0])), pair[0]), bound(pair[0])
        torch.testing.assert_close(known.exact, exact, rtol=1e-6, atol=1e-30, msg="the bound is of something else")
        for window in pair:
            found = score(window)
            assert found.dtype == torch.float32
            assert found.shape == exact.shape
            assert bool(((found - exact).abs() <= known.error).all())

    check()


@BOTH
def test_every_head_is_scored_as_if_it_were_alone(score: Score) -> None:
    @given(pairs(ragged_windows()))
    def check(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
        relative = relative_error(pair[0])
        found = [score(window) for window in pair]
        for head in range(len(pair[0].queries)):
            exact, error = SCORES[score][1](alone(pair[0], head), relative)
            for scores in found:
                assert bool(((scores[head, None, : exact.shape[1]] - exact).abs() <= error).all())

    check()


def _random(rows: int, tokens: int, heads: int = 2, group: int = 2) -> ScoringWindow:
    generator = torch.Generator().manual_seed(rows * tokens)
    queries = torch.randn(heads, group, rows, 4, generator=generator)
    keys, values = (torch.randn(heads, tokens, 4, generator=generator) for _ in range(2))
    return ScoringWindow(queries, [keys], [values], 0.5)


def _moved(window: ScoringWindow, place: int) -> Tensor:
    """Change of each row's output when a place is really left out, float64 `[H, G, w, value_dim]`."""
    rows, tokens = window.queries.shape[2], window.num_tokens
    keys, values = window.keys[0].double(), window.values[0].double()
    logits = torch.einsum("hgwd,hnd->hgwn", window.queries.double(), keys) * window.scaling
    hidden = torch.ones(rows, tokens, dtype=torch.bool).triu(window.num_evictable + 1)
    logits = logits.masked_fill(hidden, -torch.inf)
    outputs = torch.einsum("hgwn,hnd->hgwd", logits.softmax(dim=-1), values)
    logits[..., place] = -torch.inf
    return torch.einsum("hgwn,hnd->hgwd", logits.softmax(dim=-1), values) - outputs


def test_caote_of_one_row_is_the_change_when_an_entry_is_left_out() -> None:
    window = _random(rows=1, tokens=20)
    moved = torch.stack([_moved(window, place).norm(dim=-1).mean(dim=(1, 2)) for place in range(19)], dim=1)
    torch.testing.assert_close(caote_score(window).double(), moved, rtol=1e-5, atol=0)


@pytest.mark.parametrize("rows", [1, 3, 8, 12])
def test_dropkv_is_the_squared_change_of_the_last_eight_rows_pooled_with_the_windows_own(rows: int) -> None:
    """A place that a row does not see changes nothing for it."""
    window = _random(rows, tokens=20 + rows)
    squares = []
    for place in range(window.num_tokens):
        change = _moved(window, place)[:, :, -8:].square().sum(dim=-1)
        squares.append(change.sum(dim=2).mean(dim=1))
    pooled = avg_pool1d(torch.stack(squares, dim=1), 11, stride=1, padding=5)[:, :20]
    torch.testing.assert_close(dropkv_score(window).double(), pooled, rtol=1e-4, atol=0)


def test_rows_before_the_last_eight_do_not_matter_to_dropkv() -> None:
    window = _random(rows=12, tokens=40)
    queries = window.queries.clone()
    queries[:, :, :4] = 7.0
    other = replace(window, queries=queries)
    assert torch.equal(dropkv_score(other), dropkv_score(window))
    assert not torch.equal(caote_score(other), caote_score(window))


@pytest.mark.parametrize(("score", "power"), [(caote_score, 1), (dropkv_score, 2)], ids=["caote", "dropkv"])
def test_larger_values_multiply_and_a_common_offset_does_nothing(score: Score, power: int) -> None:
    """A factor that is a power of two does not round."""

    @given(full_windows(), st.sampled_from([0.125, 2.0, 64.0]))
    def check(window: ScoringWindow, factor: float) -> None:
        known = SCORES[score][1](window)
        larger, offset = ([values] for values in (factor * window.values[0], window.values[0] + 1))
        assert torch.equal(score(replace(window, values=larger)), score(window) * factor**power)
        if window.sinks is None or score is caote_score:  # what a sink takes has the value zero
            shifted = replace(window, values=offset)
            bound = known.error + SCORES[score][1](shifted).error
            moved = (SCORES[score][1](shifted).exact - known.exact).abs()  # the offset itself rounds
            assert bool(((score(shifted) - score(window)).abs() <= bound + moved).all())

    check()


@BOTH
def test_query_heads_of_a_group_may_change_places(score: Score) -> None:
    @given(full_windows(), st.randoms(use_true_random=False))
    def check(window: ScoringWindow, random) -> None:
        order = list(range(window.queries.shape[1]))
        random.shuffle(order)
        sinks = None if window.sinks is None else window.sinks[:, order]
        other = replace(window, queries=window.queries[:, order], sinks=sinks)
        bound = 2 * SCORES[score][1](window).error
        assert bool(((score(other) - score(window)).abs() <= bound).all())

    check()


@BOTH
def test_where_a_sink_takes_everything_nothing_is_lost(score: Score) -> None:
    window = replace(_random(rows=2, tokens=6), sinks=torch.full((2, 2), 1000.0))
    assert score(window).tolist() == SCORES[score][0](naive(window)) == [[0.0] * 4] * 2


def test_an_entry_that_leaves_nothing_to_the_others_is_taken_to_leave_a_little() -> None:
    """A row pays all but 2^-12 to the first entry, whose value is zero, and the rest to itself."""
    keys, values = torch.tensor([[[math.log(2**12 - 1)], [0.0]]]), torch.tensor([[[0.0], [1.0]]])
    window = ScoringWindow(torch.ones(1, 1, 1, 1), [keys], [values], 1.0)
    paid, rest = 1 - 2**-12, 2**-12
    assert caote_score(window).item() == pytest.approx(paid / 2**-10 * rest, rel=1e-3)  # an ulp of 1 is 2^-11 of 2^-12
    own = (rest / (paid + 1e-6) * paid) ** 2
    assert dropkv_score(window).item() == pytest.approx(((paid / (rest + 1e-6) * rest) ** 2 + own) / 11, rel=1e-3)
