"""`residual-far` against the loops, and by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lavakv.scoring.naive.residual import positions_naive, residual_far_squares_naive
from lavakv.scoring.prompt import PromptRows
from lavakv.scoring.residual import residual_score
from lavakv.scoring.residual_far import DEFAULT, DistantQueries, residual_far_score
from lavakv.scoring.window import ScoringWindow
from tests.scoring.bounds import exact_attention, expected
from tests.scoring.cases import full_windows, naive, pairs, whole_prompt
from tests.scoring.residual_bounds import (
    TINY,
    Known,
    distances_of,
    known_squares,
    over_rest,
    relative_error,
    row_weights_of,
)
from tests.scoring.test_residual import peaked

settings = st.builds(
    DistantQueries,
    max_rows=st.sampled_from([1, 2, 3, 40]),
    skipped=st.sampled_from([0.0, 0.25, 0.5]),
    distance=st.sampled_from([0, 1, 3, 8]),
    share=st.sampled_from([0.1, 3.0]),
)


def known_far_squares(window: ScoringWindow, rows: DistantQueries) -> Known:
    """Squares of the scores, `[H, n]`: the window's, and every rounding of the far rows' carried through."""
    near, evictable = known_squares(window), window.num_evictable
    positions = rows.positions(evictable)
    if not positions:
        return near
    whole = whole_prompt(window)
    attention, relative = exact_attention(whole)[:, :, positions], relative_error(whole)
    group, count = attention.shape[1:3]
    paid = Known(attention[..., :evictable], relative * attention[..., :evictable] + TINY)
    distances = distances_of(whole, attention, relative, group * count + 4).first(evictable)
    change = over_rest(paid).squared().rounded(4).times(distances).rounded(group * count + 4)
    far = torch.tensor(positions)[:, None] - torch.arange(evictable) > rows.distance
    average = far / far.sum(dim=0).clamp(min=count / 8)
    scale = Known(*(rows.share * part.sum() for part in row_weights_of(window))).rounded(len(window.queries[0, 0]) + 2)
    mean = Known(*((part * average).sum(dim=(1, 2)) for part in change)).rounded(4).times(scale)
    return Known(*(one + other for one, other in zip(near, mean, strict=True))).rounded(8)


@given(pairs(peaked()), settings)
def test_squared_scores_equal_the_loops(pair: tuple[ScoringWindow, ScoringWindow], rows: DistantQueries) -> None:
    squares = expected(residual_far_squares_naive(naive(pair[0]), *rows), pair[0])
    known = known_far_squares(pair[0], rows)
    torch.testing.assert_close(known.exact, squares, rtol=1e-6, atol=0, msg="the bound is of something else")
    for window in pair:
        score = residual_far_score(window, rows)
        assert score.dtype == torch.float32
        assert score.shape == squares.shape
        assert bool(((score.double().square() - squares).abs() <= known.error).all())


@given(st.integers(0, 400), settings)
def test_positions(num_evictable: int, rows: DistantQueries) -> None:
    """Ascending, none twice, as many as there may be, the last one the last evictable, gaps alike but for one."""
    found = rows.positions(num_evictable)
    assert found == positions_naive(num_evictable, rows.max_rows, rows.skipped)
    assert len(found) == min(rows.max_rows, num_evictable - int(rows.skipped * num_evictable))
    if found:
        assert rows.places(num_evictable, torch.device("cpu")).tolist() == found
        assert found[-1] == num_evictable - 1
        gaps = [later - earlier for earlier, later in pairwise(found)]
        assert all(gap >= 1 for gap in gaps)
        assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_the_defaults_are_the_documented_ones() -> None:
    assert DEFAULT == (128, 0.25, 128, 0.1)
    assert DEFAULT.positions(8) == [2, 3, 4, 5, 6, 7]
    assert DEFAULT.positions(1028)[:3] == [262, 268, 274]


@given(full_windows())
def test_a_prompt_too_short_for_far_rows_is_scored_as_by_residual(window: ScoringWindow) -> None:
    assert window.num_evictable < DEFAULT.distance
    assert torch.equal(residual_far_score(window), residual_score(window))


def _window(visible: Tensor) -> ScoringWindow:
    """Six evictable positions and one row of a window that sees itself alone; every row pays alike to all it sees."""
    values = torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])[None, :, None]
    zeros = torch.zeros(1, 7, 1)
    prompt = PromptRows(zeros[:, None], lambda start, stop: visible[start:stop])
    extras = {"output_weight": torch.ones(1, 1, 1, 1), "residual_norms": torch.tensor([2.0]), "prompt": prompt}
    return ScoringWindow(zeros[:, None, -1:], [zeros], [values], 1.0, visible=visible[-1:], **extras)


def test_rows_far_behind_by_hand() -> None:
    """Position 0 is seen by row 2, which is near, and by row 5, which is not; row 5 pays it a third."""
    visible = torch.eye(7, dtype=torch.bool)
    visible[2, 0] = visible[5, 0] = visible[5, 1] = True
    scores = residual_far_score(_window(visible), DistantQueries(max_rows=2, skipped=0.0, distance=3, share=1.0))[0]
    output = 5 / 3
    squares = [(1 / 2 * (value - output)) ** 2 / 4 for value in (3, 1)]  # a third of three: half of the rest
    assert scores.square().tolist() == pytest.approx([*squares, 0, 0, 0, 0], rel=1e-6, abs=1e-7)


def test_what_is_near_is_left_out_and_the_border_belongs_to_it() -> None:
    visible = torch.ones(7, 7, dtype=torch.bool).tril()
    visible[-1, :-1] = False
    window = _window(visible)
    for distance, seen in ((3, 2), (4, 1), (5, 0)):  # row 5 is the only one asked
        scores = residual_far_score(window, DistantQueries(max_rows=1, skipped=0.0, distance=distance, share=1.0))[0]
        assert (scores > 0).tolist() == [place < seen for place in range(6)]


def test_few_far_rows_count_as_an_eighth_of_all() -> None:
    """Of 41 rows one is far enough behind the first entry, and none behind others: its change counts 8 / 41."""
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = (torch.randn(1, 42, 4, generator=generator) for _ in range(3))
    window = ScoringWindow(
        queries[:, None, -1:],
        [keys],
        [values],
        0.5,
        visible=torch.arange(42)[None] == 41,
        output_weight=torch.randn(1, 1, 4, 3, generator=generator),
        residual_norms=torch.ones(1),
        prompt=PromptRows(queries[:, None]),
    )
    wide = residual_far_score(window, DistantQueries(max_rows=41, skipped=0.0, distance=39, share=1.0))[0].square()
    alone = residual_far_score(window, DistantQueries(max_rows=1, skipped=0.0, distance=39, share=1.0))[0].square()
    assert alone[0] > 1e-6
    assert wide[0] == pytest.approx(alone[0].item() * 8 / 41, rel=1e-5)


def test_a_window_whose_streams_are_all_zero_is_refused_by_nan() -> None:
    window = replace(_window(torch.eye(7, dtype=torch.bool)), residual_norms=torch.zeros(1))
    assert residual_far_score(window).isnan().all()
    assert all(math.isnan(square) for square in residual_far_squares_naive(naive(window))[0])
