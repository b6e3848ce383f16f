"""`residual` against the loops, and by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lavakv.scoring.naive.residual import residual_score_naive, residual_squares_naive
from lavakv.scoring.residual import residual_score
from lavakv.scoring.window import ScoringWindow
from tests.scoring.bounds import expected
from tests.scoring.cases import full_windows, naive, pairs
from tests.scoring.residual_bounds import known_squares


@st.composite
def peaked(draw: st.DrawFn) -> ScoringWindow:
    """Windows some of which pay nearly all their attention to one position, and some with rows of a stream of zeros."""
    window = draw(full_windows())
    assert window.residual_norms is not None
    rows = len(window.residual_norms)
    there = torch.tensor(draw(st.lists(st.booleans(), min_size=rows, max_size=rows).filter(any)))
    queries = draw(st.sampled_from([1, 1, 6])) * window.queries
    return replace(window, queries=queries, residual_norms=there * window.residual_norms)


@given(pairs(peaked()))
def test_squared_scores_equal_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    """Squared, since a root near zero magnifies what was rounded before it."""
    squares, known = expected(residual_squares_naive(naive(pair[0])), pair[0]), known_squares(pair[0])
    torch.testing.assert_close(known.exact, squares, rtol=1e-6, atol=0, msg="the bound is of something else")
    for window in pair:
        score = residual_score(window)
        assert score.dtype == torch.float32
        assert score.shape == squares.shape
        assert bool(((score.double().square() - squares).abs() <= known.error).all())


def _window(values: list[float], rows: int, norms: list[float], visible: Tensor | None = None) -> ScoringWindow:
    """One head whose rows pay the same to all they see, values of one number behind a projection of length one."""
    chunk, queries = torch.zeros(1, len(values), 1), torch.ones(1, 1, rows, 1)
    extras = {"output_weight": torch.tensor([[[[0.0, 1.0]]]]), "residual_norms": torch.tensor(norms)}
    return ScoringWindow(queries, [chunk], [torch.tensor(values)[None, :, None]], 1.0, visible=visible, **extras)


def test_an_entry_whose_value_is_the_output_scores_nothing() -> None:
    """One row pays 1/4 to each of four; without one of them it pays 1/3 to the others, or moves by that from its 2."""
    scores = residual_score(_window([1.0, 2.0, 3.0, 2.0], rows=1, norms=[2.0]))
    known, unseen = (1 / 3) ** 2 / 4, 3 / 16 / 4
    other = (known + 0.003 / 4 * unseen) ** 0.5
    assert scores[0].tolist() == pytest.approx([other, 0.0, other], rel=1e-6, abs=0)


def test_two_rows_that_look_elsewhere() -> None:
    """Both pay half to themselves; the first one's outputs are 2, the second one's 1."""
    visible = torch.tensor([[True, False, True, False], [False, True, False, True]])
    scores = residual_score(_window([4.0, 0.0, 0.0, 2.0], rows=2, norms=[1.0, 2.0], visible=visible))
    early, late, surprise = 1 / 3, 2 / 3 / 4, 1 / 4
    squares = [
        early * 4 + 0.003 / 4 * surprise * (early * 4 + late * 9),
        late * 1 + 0.003 / 4 * surprise * (early * 4 + late * 1),
    ]
    assert scores[0].square().tolist() == pytest.approx(squares, rel=1e-6)


def test_attention_that_stays_counts_as_it_is_and_attention_that_moves_is_flattened() -> None:
    """Both rows of the first head prefer the first entry; those of the second head each prefer another one."""
    queries, weight = torch.tensor([[[[1.0], [1.0]]], [[[1.0], [-1.0]]]]), torch.ones(2, 1, 1, 1)
    keys, values = torch.tensor([[0.5], [-0.5], [0.0], [0.0]]), torch.tensor([[1.0], [-1.0], [0.0], [0.0]])
    window = ScoringWindow(
        queries,
        [keys.expand(2, -1, -1)],
        [values.expand(2, -1, -1)],
        1.0,
        visible=torch.tensor([[True, True, True, False], [True, True, False, True]]),
        output_weight=weight,
        residual_norms=torch.ones(2),
    )
    stays, moves = residual_score(window).tolist()
    twin = residual_score_naive(naive(window))
    assert stays == pytest.approx(twin[0])
    assert moves == pytest.approx(twin[1])
    assert stays[0] > stays[1]
    assert moves[1] > moves[0], "the later row, which weighs twice, looks at the second entry"


def test_an_entry_that_leaves_nothing_to_the_others_is_taken_to_leave_a_thousandth() -> None:
    """Both rows pay all but 2^-12 to the first entry, whose value is zero, and the rest to themselves."""
    keys = torch.tensor([[[math.log(2**12 - 1)], [0.0], [0.0]]])
    visible = torch.tensor([[True, True, False], [True, False, True]])
    window = _window([0.0, 1.0, 1.0], rows=2, norms=[1.0, 1.0], visible=visible)
    score = residual_score(replace(window, keys=[keys]))
    assert score.item() == pytest.approx((1 - 2**-12) * 2**-12 / 2**-10, rel=1e-3)  # an ulp of 1 is 2^-11 of 2^-12


@given(full_windows(), st.randoms(use_true_random=False))
def test_query_heads_of_a_group_may_change_places(window: ScoringWindow, random) -> None:
    order = list(range(window.queries.shape[1]))
    random.shuffle(order)
    sinks = None if window.sinks is None else window.sinks[:, order]
    assert window.output_weight is not None
    other = replace(window, queries=window.queries[:, order], output_weight=window.output_weight[:, order], sinks=sinks)
    bound = 2 * known_squares(window).error
    apart = (residual_score(other).double().square() - residual_score(window).double().square()).abs()
    assert bool((apart <= bound).all())


@given(full_windows(), st.sampled_from([0.125, 2.0, 64.0]))
def test_a_longer_stream_divides_and_a_larger_projection_multiplies(window: ScoringWindow, factor: float) -> None:
    """Powers of two, so without rounding."""
    assert window.residual_norms is not None
    assert window.output_weight is not None
    score = residual_score(window)
    assert torch.equal(residual_score(replace(window, residual_norms=factor * window.residual_norms)) * factor, score)
    assert torch.equal(residual_score(replace(window, output_weight=factor * window.output_weight)), score * factor)


def test_a_row_whose_stream_is_zero_is_left_out() -> None:
    """Its weight goes to the others; where all are zero nothing can be told."""
    visible = torch.tensor([[True, False, True, False], [False, True, False, True]])
    values = [4.0, 0.0, 0.0, 2.0]
    squares = residual_score(_window(values, rows=2, norms=[0.0, 2.0], visible=visible))[0].square().tolist()
    late, surprise = 1 / 4, 1 / 4
    unseen = [0.003 / 4 * surprise * late * distance for distance in (9, 1)]
    assert squares == pytest.approx([unseen[0], late + unseen[1]], rel=1e-6)
    for norms in ([0.0, 0.0], [2.0**-70, 0.0]):
        window = _window(values, rows=2, norms=norms, visible=visible)
        assert residual_score(window).isnan().all()
        assert all(math.isnan(score) for score in residual_score_naive(naive(window))[0])


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_without_evictable_positions_there_is_nothing_to_score(rows: int) -> None:
    window = _window([1.0] * rows, rows, norms=[1.0] * rows)
    assert residual_score(window).shape == (1, 0)
    assert residual_score_naive(naive(window)) == [[]]


def test_where_a_sink_takes_everything_nothing_is_lost() -> None:
    window = replace(_window([1.0, 2.0, 3.0, 4.0], rows=2, norms=[1.0, 1.0]), sinks=torch.tensor([[1000.0]]))
    assert residual_score(window).tolist() == residual_score_naive(naive(window)) == [[0.0, 0.0]]
