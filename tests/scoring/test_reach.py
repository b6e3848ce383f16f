"""`reach` against its reference and by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from hypothesis import assume, given
from torch import Tensor

from lavakv.scoring.naive.reach import largest_attention_naive, reach_score_naive, rotated_naive
from lavakv.scoring.prompt import PromptRows
from lavakv.scoring.reach import asked_again, distinctness, largest_attention, reach_score
from lavakv.scoring.rotation import Rotation
from lavakv.scoring.window import ScoringWindow
from tests.scoring.bounds import EPSILON
from tests.scoring.cases import alone, full_windows, naive, pairs, ragged_windows


def _largest_logit(window: ScoringWindow) -> float:
    """Bound on a query-key product times the scaling, before any cap: a rotation keeps lengths but for its factor."""
    assert window.prompt is not None
    longest = window.prompt.queries.double().norm(dim=-1).max() * window.keys[0].double().norm(dim=-1).max()
    return float(longest) * window.scaling


def _relative_error(window: ScoringWindow) -> float:
    """Of an attention weight: its logit's and its denominator's error, as `exp` carries them on."""
    dims = window.queries.shape[-1]
    logit_error = (dims + 24) * EPSILON * _largest_logit(window)  # a turn back, a turn, a product, scaling, cap
    return math.expm1(2 * logit_error) + (window.num_tokens + 16) * EPSILON * (1 + _largest_logit(window))


@given(pairs(full_windows()))
def test_the_largest_attention_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    assume(pair[0].rotation is not None)
    exact = torch.tensor(largest_attention_naive(naive(pair[0])), dtype=torch.float64).view(len(pair[0].queries), -1)
    for window in pair:
        assert bool(((largest_attention(window).double() - exact).abs() <= _relative_error(pair[0]) * exact).all())


@given(pairs(full_windows()))
def test_the_score_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    whole = pair[0]
    assume(whole.rotation is not None)
    exact = torch.tensor(reach_score_naive(naive(whole)), dtype=torch.float64).view(len(whole.queries), -1)
    least, most = _lengths(whole)
    largest = torch.tensor(largest_attention_naive(naive(whole)), dtype=torch.float64).view(exact.shape)
    few, many = _distinctness_bounds(whole)
    mean = 2 * largest.mean(dim=1, keepdim=True)
    attended = [torch.maximum(largest, mean * own.pow(1.5)) for own in (few, many)]
    assert whole.residual_norms is not None
    scale = whole.residual_norms.double().square().mean().sqrt()
    relative = _relative_error(whole) + (exact.shape[1] + len(whole.residual_norms) + 14) * EPSILON
    for window in pair:
        score = reach_score(window).double()
        assert bool((attended[0] * least / scale * (1 - relative) <= score).all())
        assert bool((score <= attended[1] * most / scale * (1 + relative)).all())


def _distinctness_bounds(window: ScoringWindow) -> tuple[Tensor, Tensor]:
    """Least and most that a float32 `distinctness` may be, float64 `[H, n]`."""
    keys = window.keys[0].double()
    mean, most = keys.mean(dim=1, keepdim=True), keys.abs().mean(dim=1, keepdim=True)
    squares, terms = (keys - mean).square().sum(dim=2), (keys.abs() + most).square().sum(dim=2)
    error = (2 * keys.shape[1] + keys.shape[2] + 6) * EPSILON * terms
    n = window.num_evictable
    bounds = (squares - error).clamp(min=0)[:, :n], (squares + error)[:, :n]
    rounding = 1 + (n + 4) * EPSILON
    lowest, highest = (bound.mean(dim=1, keepdim=True) for bound in bounds)
    if n and not bool((lowest > 0).all()):  # all keys may be equal
        return torch.zeros_like(squares[:, :n]), torch.full_like(squares[:, :n], float("inf"))
    return bounds[0] / highest / rounding, bounds[1] / lowest * rounding


def _lengths(window: ScoringWindow) -> tuple[Tensor, Tensor]:
    """Least and most that the float32 length of a centred value behind the projection may be, float64 `[H, n]`."""
    assert window.output_weight is not None
    every, weight = window.values[0].double()[:, None], window.output_weight.double()
    mean, most = every.mean(dim=2, keepdim=True), every.abs().mean(dim=2, keepdim=True)
    values = every[:, :, : window.num_evictable]
    squares = ((values - mean) @ weight).square().sum(dim=-1)
    terms = ((values.abs() + most) @ weight.abs()).square().sum(dim=-1)
    dims = weight.shape[2] * 2 + weight.shape[3] + weight.shape[1]
    error = (2 * every.shape[2] + dims + 14) * EPSILON * terms  # the mean's sum, twice in a square, and the product's
    return (squares - error).clamp(min=0).mean(dim=1).sqrt(), (squares + error).mean(dim=1).sqrt()


@given(ragged_windows())
def test_a_later_round_takes_the_rows_at_hand_and_scores_each_head_alone(window: ScoringWindow) -> None:
    score = reach_score(window)
    assert window.empty is not None
    assert not bool(score[window.empty].any())
    for head in range(len(score)):
        one = reach_score(alone(window, head))[0]
        torch.testing.assert_close(score[head, : len(one)], one, rtol=1e-4, atol=1e-30)


def test_queries_are_those_of_the_last_position() -> None:
    """A query that is the same before its rotation at every row is the same at the end, whatever row it came from."""
    generator = torch.Generator().manual_seed(0)
    angles = torch.arange(200)[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])
    rotation = Rotation(angles.cos(), angles.sin(), torch.tensor([1.0, 0.1]))
    plain = torch.randn(4, generator=generator)
    rows = rotation.turn(plain.expand(1, 1, 200, 4))
    keys, values = torch.randn(1, 200, 4, generator=generator), torch.randn(1, 200, 4, generator=generator)
    window = ScoringWindow(rows[:, :, 192:], [keys], [values], 0.5, prompt=PromptRows(rows), rotation=rotation)
    again = asked_again(window)
    assert again.shape == (1, 1, 128, 4)
    torch.testing.assert_close(again, rows[:, :, -1:].expand(1, 1, 128, 4), rtol=1e-4, atol=1e-5)
    expected = rotated_naive(plain.tolist(), angles[-1].cos().tolist(), angles[-1].sin().tolist())
    torch.testing.assert_close(again[0, 0, 0], torch.tensor(expected), rtol=1e-4, atol=1e-5)
    paid = (0.5 * keys[0] @ rows[0, 0, -1]).softmax(dim=0)[:192]
    torch.testing.assert_close(largest_attention(window)[0], paid, rtol=1e-4, atol=1e-6)


def test_what_an_early_row_looks_for_is_found_behind_it() -> None:
    """One row in the middle of the prompt looks for a key that only comes after it; no row of the window does."""
    keys, queries = torch.zeros(1, 64, 8), torch.zeros(1, 2, 64, 8)
    keys[0, :, 0], keys[0, 40, 1] = 1.0, 20.0
    queries[..., 0] = 1.0
    queries[0, 1, 20, 1] = 1.0
    values = torch.ones(1, 64, 8) * torch.tensor([1.0, -1.0]).repeat(32)[None, :, None]  # equally far from their mean
    still = Rotation(torch.ones(64, 8), torch.zeros(64, 8), torch.zeros(4))
    window = ScoringWindow(
        queries[:, :, 60:], [keys], [values], 1.0, output_weight=torch.ones(1, 2, 8, 3),
        residual_norms=torch.ones(4), prompt=PromptRows(queries), rotation=still,
    )  # fmt: skip
    score = reach_score(window)[0]
    assert int(score.argmax()) == 40
    rest = torch.cat([score[:40], score[41:]])
    torch.testing.assert_close(rest, rest[:1].expand(59))


def test_what_all_values_have_in_common_does_not_count() -> None:
    """A bias of the value projection reaches the output whatever is evicted: weights of attention sum to one."""
    generator = torch.Generator().manual_seed(0)
    keys, values, rows = (torch.randn(2, 40, 4, generator=generator) for _ in range(3))
    still = Rotation(torch.ones(40, 4), torch.zeros(40, 4), torch.zeros(2))
    window = ScoringWindow(
        rows[:, None, 32:], [keys], [values], 1.0, output_weight=torch.randn(2, 1, 4, 5, generator=generator),
        residual_norms=torch.ones(8), prompt=PromptRows(rows[:, None]), rotation=still,
    )  # fmt: skip
    bias = 8 * torch.randn(2, 1, 4, generator=generator)
    torch.testing.assert_close(
        reach_score(replace(window, values=[values + bias])), reach_score(window), rtol=1e-4, atol=0
    )


def test_what_nobody_looked_at_counts_more_where_its_key_is_unlike_the_others() -> None:
    """Rows that look nowhere; a part that all keys share changes nothing."""
    keys = torch.zeros(1, 20, 2)
    keys[0, 3, 0], keys[0, 8, 0] = 1.0, 2.0
    rows, values = torch.zeros(1, 1, 20, 2), torch.tensor([1.0, -1.0]).repeat(10)[None, :, None].expand(1, 20, 2)
    still = Rotation(torch.ones(20, 2), torch.zeros(20, 2), torch.zeros(1))
    window = ScoringWindow(
        rows[:, :, 16:], [keys], [values], 1.0, output_weight=torch.eye(2)[None, None],
        residual_norms=torch.ones(4), prompt=PromptRows(rows), rotation=still,
    )  # fmt: skip
    own = distinctness(window)[0]
    torch.testing.assert_close(own[3] / own[8], torch.tensor((0.85 / 1.85) ** 2))
    torch.testing.assert_close(own.mean(), torch.tensor(1.0))
    score = reach_score(window)[0]
    torch.testing.assert_close(score[8], 2 * 0.05 * own[8] ** 1.5 * math.sqrt(2))
    assert score.argsort(descending=True)[:2].tolist() == [8, 3]
    moved = replace(window, keys=[keys + torch.tensor([3.0, -5.0])])
    torch.testing.assert_close(reach_score(moved), reach_score(window), rtol=1e-4, atol=1e-5)


def test_what_nobody_looked_at_counts_by_how_far_its_value_is_from_the_mean() -> None:
    values = torch.ones(1, 20, 2)
    values[0, 7] = 3.0
    rows = torch.zeros(1, 1, 20, 2)
    still = Rotation(torch.ones(20, 2), torch.zeros(20, 2), torch.zeros(1))
    window = ScoringWindow(
        rows[:, :, 16:], [torch.zeros(1, 20, 2)], [values], 1.0, output_weight=torch.eye(2)[None, None],
        residual_norms=torch.tensor([3.0, 4.0, 5.0, 0.0]), prompt=PromptRows(rows), rotation=still,
    )  # fmt: skip
    score, scale = reach_score(window)[0], math.sqrt(50 / 3)
    torch.testing.assert_close(score[7], torch.tensor(0.1 * 1.9 * math.sqrt(2) / scale))
    torch.testing.assert_close(score[0], torch.tensor(0.1 * 0.1 * math.sqrt(2) / scale))
    doubled = replace(window, residual_norms=2 * window.residual_norms)
    torch.testing.assert_close(reach_score(doubled)[0], score / 2)
