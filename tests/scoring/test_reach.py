"""`reach` against its reference and by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given

from lavakv.scoring.distinctness import distinctness
from lavakv.scoring.naive.reach import asked_rows_naive, largest_attention_naive, rotated_naive
from lavakv.scoring.prompt import PromptRows, RowTotals
from lavakv.scoring.reach import asked_again, asked_rows, largest_attention, reach_score
from lavakv.scoring.rotation import Rotation
from lavakv.scoring.window import ScoringWindow
from tests.scoring.cases import alone, full_windows, naive, pairs, ragged_windows
from tests.scoring.reach_bounds import long_window, relative_error, score_bounds


@given(pairs(full_windows()))
def test_the_largest_attention_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    assume(pair[0].rotation is not None)
    exact = torch.tensor(largest_attention_naive(naive(pair[0])), dtype=torch.float64).view(len(pair[0].queries), -1)
    for window in pair:
        assert bool(((largest_attention(window).double() - exact).abs() <= relative_error(pair[0]) * exact).all())


@given(pairs(full_windows()))
def test_the_score_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    assume(pair[0].rotation is not None)
    _assert_equals_the_loops(*pair)


def _assert_equals_the_loops(whole: ScoringWindow, *cut: ScoringWindow) -> None:
    """A window, and the same one in chunks and blocks, within what float32 may round."""
    least, most = score_bounds(whole)
    for window in (whole, *cut):
        score = reach_score(window).double()
        assert bool(((least <= score) & (score <= most)).all())


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


def test_rows_are_the_last_and_those_unlike_the_others_in_any_layer_so_far() -> None:
    totals = RowTotals()
    first, second = long_window(0, totals, slice(30, 35)), long_window(1, totals, slice(200, 210))
    rows = asked_rows(first).tolist()
    assert len(rows) == len(set(rows)) == 128
    assert 299 in rows
    spread = {299 - number * 300 // 32 for number in range(32)}
    assert set(rows[96:]) == spread
    assert set(rows[:5]) >= set(range(30, 35)) - spread
    assert rows == asked_rows_naive(naive(first))
    own = asked_rows(replace(first, prompt=PromptRows(first.prompt.queries) if first.prompt else None))
    assert rows == own.tolist()
    both = asked_rows(second).tolist()
    rare = {*range(30, 35), *range(200, 210)} - spread
    assert set(both[: len(rare)]) == rare
    earlier = totals.through(0, lambda: torch.zeros(0)).tolist()
    assert both == asked_rows_naive(naive(second)._replace(earlier=earlier))
    again = long_window(0, totals, slice(30, 35))
    assert asked_rows(again).tolist() == rows, "a layer that is scored again has only those before it"
    alone = asked_rows_naive(naive(second))
    assert not set(alone[: len(rare)]) >= rare


def test_long_prompts_equal_the_loops_with_rows_of_their_choice() -> None:
    _assert_equals_the_loops(replace(long_window(0, RowTotals(), slice(30, 35)), tokens_per_head=40))


def test_what_nobody_looked_at_counts_in_inverse_proportion_to_the_budget() -> None:
    window = long_window(0, None, slice(30, 35))
    scores = {budget: reach_score(replace(window, tokens_per_head=budget)) for budget in (4, 8, 16, None)}
    unseen, twice = scores[8] != scores[4], scores[8] != scores[16]
    assert unseen.any()
    assert not unseen.all()
    assert bool((scores[4] >= scores[8]).all())
    twice &= unseen
    assert twice.any()
    torch.testing.assert_close(scores[4][twice], 2 * scores[8][twice])
    unknown = scores[None] > reach_score(replace(window, tokens_per_head=10**9))
    assert unknown.any()
    torch.testing.assert_close(scores[None][unknown], scores[4][unknown] * 4 / (300 / 8))


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
        residual_norms=torch.ones(4), prompt=PromptRows(rows), rotation=still, tokens_per_head=1,
    )  # fmt: skip
    own = distinctness(window)[0]
    assert abs(own[3] - own[8] * (0.85 / 1.85) ** 2) <= 1 / 1024, "each is rounded to 1,024ths"
    assert abs(own.mean() - 1) <= 1 / 2048
    score = reach_score(window)[0]
    torch.testing.assert_close(score[8], 16 * 0.05 / 16 * own[8] ** 1.5 * math.sqrt(2))
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
    torch.testing.assert_close(score[7], torch.tensor(0.05 * 1.9 * math.sqrt(2) / scale))
    torch.testing.assert_close(score[0], torch.tensor(0.05 * 0.1 * math.sqrt(2) / scale))
    doubled = replace(window, residual_norms=2 * window.residual_norms)
    torch.testing.assert_close(reach_score(doubled)[0], score / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_that_differ_by_rounding_alone_are_equal(dtype: torch.dtype) -> None:
    """A head whose keys are a bias, in the format that the cache holds them in."""
    window = long_window(0, None, slice(0))
    assert window.rotation is not None
    keys = window.rotation.turn(torch.tensor([300.0, -2.0, 5.0, 70.0]).expand(2, 300, 4)).to(dtype)
    assert bool((distinctness(replace(window, keys=[keys])) == 1).all())
