from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import lavakv
from lavakv.scoring.blocks import MAX_BLOCK_ELEMENTS
from lavakv.scoring.lava import eviction_loss, lava_score
from lavakv.scoring.naive.family import eviction_loss_naive, lava_score_naive
from lavakv.scoring.naive.window import max_pool_naive, mean_attention_naive
from lavakv.scoring.prompt import ReplayMaxima
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow
from tests.scoring.cases import chunked, largest_difference, made_up_rotation, naive, plain_attention_error, windows

EPSILON = torch.finfo(torch.float32).eps
WHOLE_WINDOW = ScoringWindow(torch.ones(2, 3, 4, 5), [torch.ones(2, 4, 5)], [torch.ones(2, 4, 3)], 1.0)


@given(windows())
@example(WHOLE_WINDOW)
def test_the_score_equals_the_loops(window: ScoringWindow) -> None:
    _assert_within_bound(lava_score(window), lava_score_naive(naive(window)), window)


@given(chunked())
def test_the_score_of_chunks_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    whole, cut = pair
    _assert_within_bound(lava_score(cut), lava_score_naive(naive(whole)), whole)


@given(windows())
@example(WHOLE_WINDOW)
def test_the_loss_equals_the_loops(window: ScoringWindow) -> None:
    _assert_within_bound(eviction_loss(window), eviction_loss_naive(naive(window)), window)


@given(windows(min_evictable=1))
def test_a_large_value_inside_the_window_changes_no_score(window: ScoringWindow) -> None:
    values = window.values[0].clone()
    values[:, window.num_evictable :] = 1e4
    louder = replace(window, values=[values])
    assert torch.equal(lava_score(louder), lava_score(window))
    assert bool((eviction_loss(louder) >= eviction_loss(window)).all())


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20), st.sampled_from([1, 3, 7]))
def test_pooling_equals_pytorchs(row: list[float], kernel: int) -> None:
    pooled = torch.nn.functional.max_pool1d(torch.tensor([row]), kernel, stride=1, padding=kernel // 2)
    assert pooled[0].tolist() == max_pool_naive(row, kernel)


@given(chunked())
def test_the_public_function_scores_what_the_window_scores(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    window = replace(pair[1], max_block_elements=MAX_BLOCK_ELEMENTS)
    scored = lavakv.scores(
        "lava",
        window.queries.flatten(0, 1),
        window.keys,
        window.values,
        scaling=window.scaling,
        softcap=window.softcap,
        sinks=None if window.sinks is None else window.sinks.flatten(),
        visible=window.visible,
    )
    assert torch.equal(scored, lava_score(window))


@pytest.mark.parametrize("policy", lavakv.policies())
def test_scaling_defaults_to_the_head_size(policy: str) -> None:
    torch.manual_seed(0)
    prompt, keys, values = torch.randn(4, 20, 16), torch.randn(2, 20, 16), torch.randn(2, 20, 7)

    def scored(**scaling: float) -> tuple[torch.Tensor, ...]:
        extras = {
            "tokens_per_head": 9,
            "output_weight": torch.ones(4, 7, 5),
            "prompt_queries": prompt,
            "residual_norms": torch.ones(3),
            "rotation": made_up_rotation(20, 16, torch.Generator().manual_seed(0)),
            "replay": ReplayMaxima(*torch.rand(2, 2, 2, 20, generator=torch.Generator().manual_seed(0))),
        }
        score = lavakv.scores(policy, prompt[:, 17:], keys, values, **extras, **scaling)
        return tuple(score) if isinstance(score, TieredScores) else (score,)

    for default, quarter in zip(scored(), scored(scaling=0.25), strict=True):
        assert torch.equal(default, quarter)
        assert default.shape == (2, 17)


def _assert_within_bound(fast: torch.Tensor, exact: list[list[float]], window: ScoringWindow) -> None:
    heads = window.queries.shape[0]
    expected = torch.tensor(exact, dtype=torch.float64).view(heads, window.num_evictable)
    assert fast.dtype == torch.float32
    assert fast.shape == expected.shape
    attention = torch.tensor(mean_attention_naive(naive(window)), dtype=torch.float64)
    error = plain_attention_error(window, attention.view(*window.queries.shape[:2], -1 if attention.numel() else 0))
    largest_norm = float(window.value_norms.double().max())
    # Ulp of the largest score: 8 as for the attention, one a term of the norm's sum, one for the product.
    ulps = (9 + window.values[0].shape[-1]) * EPSILON * (float(expected.max()) if expected.numel() else 0.0)
    assert largest_difference(fast, expected) <= 2 * error * largest_norm + ulps
