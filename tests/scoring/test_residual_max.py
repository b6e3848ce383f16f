from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given

from lavakv.scoring.defensivekv import defensive_attention
from lavakv.scoring.residual_max import residual_max_score
from lavakv.scoring.window import ScoringWindow
from tests.scoring import twins
from tests.scoring.bounds import assert_near, attention
from tests.scoring.cases import full_windows, pairs

pieces = pairs(full_windows())


@given(pieces)
def test_the_score_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    exact, bound = twins.residual_max(pair[0], attention(pair[0]))
    for window in pair:
        assert_near(residual_max_score(window), exact, bound)


def _window(norms: torch.Tensor) -> ScoringWindow:
    generator = torch.Generator().manual_seed(0)
    queries, keys, values, weight = (
        torch.randn(shape, generator=generator) for shape in ((1, 2, 3, 4), (1, 20, 4), (1, 20, 4), (1, 2, 4, 6))
    )
    return ScoringWindow(queries, [keys], [values], 0.5, output_weight=weight, residual_norms=norms)


def test_it_is_the_worst_case_times_a_length_relative_to_the_stream() -> None:
    window = _window(torch.tensor([3.0, 4.0, 5.0]))
    values, weight = window.values[0][0, :17], window.output_weight
    assert weight is not None
    lengths = (values @ weight[0]).square().sum(dim=-1).mean(dim=0).sqrt()
    expected = defensive_attention(window) * lengths / (50 / 3) ** 0.5
    torch.testing.assert_close(residual_max_score(window), expected)
    torch.testing.assert_close(residual_max_score(replace(window, residual_norms=torch.tensor([6.0, 8.0, 10.0]))),
                               residual_max_score(window) / 2)  # fmt: skip


def test_a_row_without_a_stream_is_left_out_and_none_is_no_score() -> None:
    some = residual_max_score(_window(torch.tensor([0.0, 4.0, 4.0])))
    torch.testing.assert_close(some, residual_max_score(_window(torch.tensor([4.0, 4.0, 4.0]))))
    assert bool(residual_max_score(_window(torch.zeros(3))).isnan().all())


def test_one_glance_of_one_row_weighs_as_much_as_the_looks_of_all() -> None:
    """Two entries alike but for who looks at them: all rows at one, one row of one query head at the other."""
    keys = torch.zeros(1, 40, 8)
    keys[0, 10, 0], keys[0, 25, 1] = 20.0, 20.0
    queries = torch.zeros(1, 2, 4, 8)
    queries[..., 0] = 1.0
    queries[0, 1, 2] = torch.eye(8)[1]
    window = ScoringWindow(queries, [keys], [torch.ones(1, 40, 8)], 1.0, output_weight=torch.ones(1, 2, 8, 3),
                           residual_norms=torch.ones(4))  # fmt: skip
    score = residual_max_score(window)[0]
    assert float(score[25]) > 0.9 * float(score[10]) > 3 * float(score[18])
