"""Scores by attention against the loops, in one piece and in chunks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavakv.scoring import h2o, received
from lavakv.scoring.cake import _variance_of_rows, cake_layer_weight, cake_score
from lavakv.scoring.h2o import h2o_score
from lavakv.scoring.naive.family import (
    average_pool_naive,
    cake_layer_weight_naive,
    h2o_score_naive,
    tova_score_naive,
    variance_naive,
)
from lavakv.scoring.pooling import average_pool
from lavakv.scoring.snapkv import snapkv_score
from lavakv.scoring.tova import tova_score
from lavakv.scoring.vatp import vatp_score
from lavakv.scoring.window import ScoringWindow
from tests.scoring import twins
from tests.scoring.bounds import EPSILON, assert_near, attention, entropy_error, expected, largest, variance_error
from tests.scoring.cases import full_windows, naive, pairs, whole_prompt

pieces = pairs(full_windows())


@given(pieces)
def test_snapkv_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    exact, bound = twins.snapkv(pair[0], attention(pair[0]))
    for window in pair:
        assert_near(snapkv_score(window), exact, bound)


@given(pieces)
def test_tova_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    exact, known = expected(tova_score_naive(naive(pair[0])), pair[0]), attention(pair[0])
    for window in pair:
        assert_near(tova_score(window), exact, known.mean_error)


@given(pieces)
def test_vatp_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    exact, bound = twins.vatp(pair[0], attention(pair[0]))
    for window in pair:
        assert_near(vatp_score(window), exact, bound)


@given(pieces)
def test_cake_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    exact, bound = twins.cake(pair[0], attention(pair[0]))
    for window in pair:
        assert_near(cake_score(window), exact, bound)


@given(pieces)
def test_cakes_layer_weight_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    window = pair[0]
    twin, known = naive(window), attention(window)
    exact, count = cake_layer_weight_naive(twin), known.exact[:, :, 0, : window.num_evictable].numel()
    variance = sum(map(sum, variance_naive(twin)))
    spread = -float(torch.xlogy(known.exact, known.exact)[..., : window.num_evictable].sum())
    spread_error, error = entropy_error(known, window.num_evictable), count * variance_error(window, known)
    for one in pair:
        weight = cake_layer_weight(one)
        assert weight.dtype == torch.float64
        assert float(weight) >= 0
        assert abs(float(weight) - exact) <= spread * error + spread_error * (variance + error)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (1, 4), (3, 3)])
def test_cake_of_one_row_or_of_nothing_evictable_weighs_nothing(rows: int, tokens: int) -> None:
    window = ScoringWindow(torch.rand(2, 3, rows, 4), [torch.rand(2, tokens, 4)], [torch.rand(2, tokens, 4)], 1.0)
    assert float(cake_layer_weight(window)) == 0
    assert cake_score(window).shape == (2, tokens - rows)


@pytest.mark.parametrize("way", ["kernel", "operators"])
@pytest.mark.parametrize("block", [1, 2, 5, 256])
def test_h2o_equals_the_loops(block: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h2o, "BLOCK_ROWS", block)
    if way == "operators":
        monkeypatch.setattr(received, "kernel", lambda: None)
    _assert_h2o()


@given(pieces)
def _assert_h2o(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    exact, known = expected(h2o_score_naive(naive(pair[0])), pair[0]), attention(whole_prompt(pair[0]))
    # A sum over all rows: each brings the error of an entry, and the sum's own roundings are relative to it.
    bound = pair[0].num_tokens * known.error + known.terms * EPSILON * largest(exact)
    for window in pair:
        assert_near(h2o_score(window), exact, bound)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20), st.sampled_from([1, 3, 5]))
def test_average_pooling_equals_the_loops(row: list[float], kernel: int) -> None:
    exact = torch.tensor(average_pool_naive(row, kernel), dtype=torch.float64)
    assert_near(average_pool(torch.tensor(row), kernel), exact, (kernel + 1) * EPSILON * largest(exact))


def test_variance_is_told_from_a_mean_that_hides_it() -> None:
    """Rows of 0.5 and four ulp of it more: float32 means would be off by as much as the rows differ."""
    step = 4 * 2.0**-24
    rows = 0.5 + step * torch.tensor([[[[0.0], [1.0], [0.0], [1.0], [1.0], [0.0], [1.0]]]])
    expected_variance = step**2 * 7 / 6 * (4 / 7) * (3 / 7)
    assert _variance_of_rows(rows).item() == pytest.approx(expected_variance, rel=1e-6, abs=0)
