"""LaProx against its reference and by hand."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given
from torch import Tensor

from lavakv.scoring.laprox import laprox_score
from lavakv.scoring.naive.family import laprox_score_naive
from lavakv.scoring.window import ScoringWindow
from tests.scoring.bounds import EPSILON, Attention, attention
from tests.scoring.cases import alone, full_windows, naive, pairs, ragged_windows


def _range(window: ScoringWindow, known: Attention) -> tuple[Tensor, Tensor]:
    """The least and the most that a float32 product of norms may be before it becomes a share, float64 `[H, n]`."""
    assert window.output_weight is not None
    weight, values = window.output_weight.double(), window.values[0].double()[:, None, : window.num_evictable]
    squares = (values @ weight).square().sum(dim=-1)
    roundings = (
        (weight.shape[2] * 2 + weight.shape[3] + 8) * EPSILON * (values.abs() @ weight.abs()).square().sum(dim=-1)
    )
    exact = known.exact[..., : window.num_evictable]
    rows = exact.shape[2]
    ends = []
    for sign in (-1, 1):
        norms = (exact + sign * known.error).clamp(min=0).square().sum(dim=2).sqrt() * (1 + sign * (rows + 4) * EPSILON)
        flat = norms.flatten(0, 1)[:, None]
        pooled = (
            torch.nn.functional.avg_pool1d(flat, 7, stride=1, padding=3).view(norms.shape) if flat.numel() else norms
        )
        lengths = (squares + sign * roundings).clamp(min=0).sqrt()
        ends.append((pooled * lengths).mean(dim=1) * (1 + sign * (exact.shape[1] + 12) * EPSILON))
    return ends[0], ends[1]


@given(pairs(full_windows()))
def test_it_is_the_reference(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    whole = pair[0]
    exact = torch.tensor(laprox_score_naive(naive(whole)), dtype=torch.float64).view(len(whole.queries), -1)
    least, most = _range(whole, attention(whole))
    more = whole.num_tokens * len(whole.queries) * EPSILON
    for window in pair:
        score = laprox_score(window).double()
        assert score.shape == exact.shape
        if not float(least.sum()):
            continue  # nothing is attended to or all values are zero, as far as float32 can tell
        low, high = least / most.sum() * (1 - more), most / least.sum() * (1 + more)
        assert bool(((low <= exact) & (exact <= high)).all()), "the range itself is wrong"
        assert bool(((low <= score) & (score <= high)).all())


@given(ragged_windows())
def test_heads_that_hold_unequally_many_share_one_sum(window: ScoringWindow) -> None:
    """Each head's shares are those that it has alone, times its part of the layer."""
    score = laprox_score(window).masked_fill(window.empty, 0.0)
    total = float(score.double().sum())
    assert total == 0 or abs(total - 1) < 1e-4
    for head in range(len(score)):
        one = laprox_score(alone(window, head))[0]
        part = score[head, : len(one)]
        torch.testing.assert_close(part, one * part.sum(), rtol=1e-4, atol=1e-6)


def _window() -> ScoringWindow:
    generator = torch.Generator().manual_seed(0)
    queries, keys, values, weight = (
        torch.randn(shape, generator=generator) for shape in ((2, 2, 3, 4), (2, 20, 4), (2, 20, 4), (2, 2, 4, 6))
    )
    return ScoringWindow(queries, [keys], [values], 0.5, output_weight=weight)


def test_the_scale_of_a_layer_does_not_count() -> None:
    window = _window()
    assert window.output_weight is not None
    larger = replace(window, values=[8 * window.values[0]], output_weight=4 * window.output_weight)
    torch.testing.assert_close(laprox_score(larger), laprox_score(window))
    torch.testing.assert_close(laprox_score(window).sum(), torch.tensor(1.0))


def test_a_query_head_that_is_projected_to_nothing_counts_for_nothing() -> None:
    window = _window()
    assert window.output_weight is not None
    weight = window.output_weight.clone()
    weight[:, 1] = 0
    only = replace(window, queries=window.queries[:, :1], output_weight=weight[:, :1])
    torch.testing.assert_close(laprox_score(replace(window, output_weight=weight)), laprox_score(only))


def test_values_of_zero_score_nothing() -> None:
    window = _window()
    assert not bool(laprox_score(replace(window, values=[torch.zeros(2, 20, 4)])).any())
