"""Scores by keys, by position and by noise against the loops."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from lavakv.scoring.keydiff import keydiff_score
from lavakv.scoring.knorm import knorm_score
from lavakv.scoring.naive.family import streaming_llm_order_naive
from lavakv.scoring.naive.tiers import random_score_naive
from lavakv.scoring.random import random_score
from lavakv.scoring.streaming_llm import streaming_llm_score
from lavakv.scoring.window import ScoringWindow
from lavakv.selection.ranking import rank
from tests.scoring import twins
from tests.scoring.bounds import EPSILON, assert_near, attention, largest
from tests.scoring.cases import full_windows, pairs

pieces = pairs(full_windows())


def _blank(heads: int, num_evictable: int, layer: int = 0) -> ScoringWindow:
    chunk = torch.zeros(heads, num_evictable + 1, 2)
    return ScoringWindow(chunk[:, None, :1], [chunk], [chunk], 1.0, layer=layer)


@given(pieces)
def test_knorm_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    exact, bound = twins.knorm(pair[0], attention(pair[0]))
    for window in pair:
        assert_near(knorm_score(window), exact, bound)


@given(pieces)
def test_keydiff_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    exact, bound = twins.keydiff(pair[0], attention(pair[0]))
    for window in pair:
        assert_near(keydiff_score(window), exact, bound)
        assert largest(keydiff_score(window)) <= 1 + 4 * EPSILON


@given(st.integers(1, 3), st.integers(0, 40))
def test_the_first_four_positions_come_first_then_the_latest(heads: int, num_evictable: int) -> None:
    score = streaming_llm_score(_blank(heads, num_evictable))
    assert score.shape == (heads, num_evictable)
    assert score.dtype == torch.float32
    assert rank(score).positions.tolist() == [streaming_llm_order_naive(num_evictable)] * heads


@given(st.integers(0, 2**40), st.integers(0, 200), st.integers(1, 4), st.integers(0, 30))
def test_noise_equals_the_loops(seed: int, layer: int, heads: int, num_evictable: int) -> None:
    score = random_score(seed)(_blank(heads, num_evictable, layer))
    assert score.dtype == torch.float32
    assert score.tolist() == [
        [random_score_naive(seed, layer, head, position) for position in range(num_evictable)] for head in range(heads)
    ]


@given(pairs(full_windows()), st.integers(1, 9))
def test_noise_depends_on_nothing_else(pair: tuple[ScoringWindow, ScoringWindow], more: int) -> None:
    """Not on tensors, cuts or lengths: a row of a batch is scored as alone."""
    whole, cut = pair
    noise = random_score(0)(whole)
    assert torch.equal(random_score(0)(cut), noise)
    blank = _blank(whole.queries.shape[0] + more, whole.num_evictable + more)
    assert torch.equal(random_score(0)(blank)[: noise.shape[0], : noise.shape[1]], noise)


def test_noise_depends_on_seed_layer_head_and_position() -> None:
    window = _blank(4, 500, layer=3)
    noise = random_score(0)(window)
    for other in (random_score(1)(window), random_score(0)(replace(window, layer=4))):
        assert int((other == noise).sum()) <= 1
    assert noise.unique().numel() >= noise.numel() - 1


def test_noise_is_uniform_and_uncorrelated() -> None:
    """Chance alone passes five standard deviations less often than once in a million times; all is seeded anyway."""
    noise = torch.stack([random_score(0)(_blank(8, 2000, layer)) for layer in range(10)]).double()
    assert float(noise.min()) >= 0
    assert float(noise.max()) < 1
    counts = torch.histc(noise, bins=20, min=0, max=1)
    mean = noise.numel() / 20
    assert float((counts - mean).abs().max()) <= 5 * math.sqrt(mean * 0.95)
    centred = noise - 0.5
    for axis in range(3):
        product = centred.narrow(axis, 0, noise.shape[axis] - 1) * centred.narrow(axis, 1, noise.shape[axis] - 1)
        assert abs(float(product.sum())) <= 5 * math.sqrt(product.numel()) / 12
