"""Heads with unequally many candidates: every score equals that of each head alone, whatever the empty places hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from lavakv.policy.builtin import FAMILY
from lavakv.scoring.cake import cake_layer_weight, cake_score
from lavakv.scoring.criticalkv import criticalkv_score
from lavakv.scoring.curdkv import curdkv_score
from lavakv.scoring.defensivekv import defensive_attention, defensivekv_score
from lavakv.scoring.entropy import head_statistics, normalized_entropy
from lavakv.scoring.h2o import h2o_score
from lavakv.scoring.keydiff import keydiff_score
from lavakv.scoring.knorm import knorm_score
from lavakv.scoring.lava import eviction_loss, lava_score
from lavakv.scoring.naive.family import (
    attention_spread_naive,
    normalized_entropy_naive,
    tova_by_position_naive,
    variance_naive,
)
from lavakv.scoring.naive.tiers import best_first_naive, random_score_naive
from lavakv.scoring.random import random_score
from lavakv.scoring.residual import residual_score
from lavakv.scoring.residual_far import residual_far_score
from lavakv.scoring.residual_max import residual_max_score
from lavakv.scoring.rkv import importance_among_candidates, rkv_score
from lavakv.scoring.snapkv import snapkv_score
from lavakv.scoring.streaming_llm import streaming_llm_score
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.tova import tova_score
from lavakv.scoring.vatp import vatp_score
from lavakv.scoring.window import ScoringWindow
from tests.hf.test_no_sync import no_waiting
from tests.scoring import twins
from tests.scoring.bounds import (
    Attention,
    assert_near,
    assert_protected,
    attention,
    entropy_error,
    expected,
    variance_error,
)
from tests.scoring.cases import alone, full_windows, naive, pairs, ragged_windows, with_garbage
from tests.scoring.residual_bounds import known_squares, relative_error

EPSILON = torch.finfo(torch.float64).eps
TWINS: dict[Callable[[ScoringWindow], Tensor], twins.Twin] = {
    lava_score: twins.lava,
    eviction_loss: twins.loss,
    snapkv_score: twins.snapkv,
    vatp_score: twins.vatp,
    cake_score: twins.cake,
    defensive_attention: twins.defensive_attention,
    h2o_score: twins.window_received,
    knorm_score: twins.knorm,
    residual_max_score: twins.residual_max,
    keydiff_score: twins.keydiff,
    curdkv_score: twins.curdkv,
    importance_among_candidates: twins.importance_among_candidates,
}
SCORES = {  # several policies share one; some score whole prompts only
    policy.score: name for name, policy in reversed(FAMILY.items()) if not policy.prompt_only
}
POLICIES = sorted(SCORES.values())
ORDER_COUNTS = {"tova", "chunkkv", "laprox", "random"}  # heads share a mean or sum, or its number is part of the score
pieces = pairs(ragged_windows())


def cap_of(window: ScoringWindow, head: int) -> int:
    return len(alone(window, head).keys[0][0]) - window.queries.shape[2]


def parts(score: Tensor | TieredScores) -> tuple[Tensor, ...]:
    return tuple(score) if isinstance(score, TieredScores) else (score,)


@pytest.mark.parametrize("score", TWINS, ids=lambda score: score.__name__)
def test_every_head_is_scored_as_if_it_were_alone(score: Callable[[ScoringWindow], Tensor]) -> None:
    @given(pieces)
    def check(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
        known, found = attention(pair[0]), [score(window) for window in pair]
        for head in range(len(pair[0].queries)):
            exact, bound = TWINS[score](alone(pair[0], head), known)
            for scores in found:
                assert_near(scores[head, None, : exact.shape[1]], exact, bound)

    check()


@given(pieces)
def test_rkv_scores_every_head_as_if_it_were_alone(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    known, found = attention(pair[0]), [rkv_score(window) for window in pair]
    for head in range(len(pair[0].queries)):
        one = alone(pair[0], head)
        assume(twins.similarity_is_clear(one))
        exact, bound = twins.rkv(one, known)
        for scores in found:
            assert_near(scores[head, None, : exact.shape[1]], exact, bound)


@given(pieces)
def test_residual_scores_every_head_as_if_it_were_alone(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    relative = relative_error(pair[0])
    for score in (residual_score, residual_far_score):
        found = [score(window) for window in pair]
        for head in range(len(pair[0].queries)):
            exact, error = known_squares(alone(pair[0], head), relative)
            for scores in found:
                squares = scores[head, None, : exact.shape[1]].double().square()
                assert bool(((squares - exact).abs() <= error).all())


@given(pieces)
def test_scores_in_tiers_protect_no_empty_place(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    known = attention(pair[0])
    for window in pair:
        critical, defensive = criticalkv_score(window), defensivekv_score(window)
        for head in range(len(window.queries)):
            one, cap = alone(pair[0], head), cap_of(pair[0], head)
            for score, twin in ((critical, twins.criticalkv), (defensive, twins.defensivekv)):
                assert_near(score.values[head, None, :cap], *twin(one, known))
                assert not bool(score.protected[head, cap:].any())
            kept = int(0.5 * (window.tokens_per_head - window.queries.shape[2]))
            attended = snapkv_score(window)[head, None, :cap].tolist()
            assert critical.protected[head, None, :cap].tolist() == best_first_naive(attended, kept)
            assert_protected(defensive.protected[head, None, :cap], one, known)


@given(pieces)
def test_tova_averages_over_the_heads_that_hold_a_position(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    heads = [alone(pair[0], head) for head in range(len(pair[0].queries))]
    known = attention(pair[0])
    exact = tova_by_position_naive([naive(one) for one in heads], [positions_of(one) for one in heads])
    for window in pair:
        score = tova_score(window)
        for row, scores, one in zip(exact, score, heads, strict=True):
            assert_near(scores[None, : len(row)], expected([row], one), known.mean_error)


@given(ragged_windows(), st.integers(0, 2**40))
def test_scores_by_position_take_the_original_ones(window: ScoringWindow, seed: int) -> None:
    noise, streaming = random_score(seed)(window), streaming_llm_score(window)
    for head in range(len(window.queries)):
        places = positions_of(alone(window, head))
        assert noise[head, : len(places)].tolist() == [random_score_naive(seed, 3, head, place) for place in places]
        best = streaming[head, : len(places)].argsort(descending=True).tolist()
        first = [place for place in places if place < 4]
        latest = [place for place in reversed(places) if place >= 4]
        assert [places[place] for place in best] == [*first, *latest]


def positions_of(one: ScoringWindow) -> list[int]:
    return one.candidate_positions[0].tolist()


@pytest.mark.parametrize("policy", POLICIES)
def test_what_lies_in_empty_places_changes_nothing(policy: str) -> None:
    @given(pieces, st.sampled_from([1.0, 1e30, 3e38]))
    def check(pair: tuple[ScoringWindow, ScoringWindow], size: float) -> None:
        cut = [chunk.shape[1] for chunk in pair[1].keys]
        for window, sizes in zip(pair, ([pair[0].num_tokens], cut), strict=True):
            clean, dirty = (with_garbage(pair[0], number) for number in (0.0, size))
            results = []
            for one in (clean, dirty):
                chunks = {"keys": one.keys[0].split(sizes, dim=1), "values": one.values[0].split(sizes, dim=1)}
                cut_up = replace(one, **chunks, max_block_elements=window.max_block_elements)
                results.append(FAMILY[policy].score(cut_up))
            for one, other in zip(*map(parts, results), strict=True):
                assert bool(other.isfinite().all())
                assert one.masked_fill(clean.empty, 0).equal(other.masked_fill(clean.empty, 0))

    check()


@pytest.mark.parametrize("policy", POLICIES)
def test_full_heads_score_to_the_bit_as_without_caps(policy: str) -> None:
    @given(pairs(full_windows()), st.booleans())
    def check(pair: tuple[ScoringWindow, ScoringWindow], with_positions: bool) -> None:
        for window in pair:
            heads, count = len(window.queries), window.num_evictable
            positions = torch.arange(count).expand(heads, -1) if with_positions else None
            full = replace(window, caps=torch.full((heads,), count), positions=positions)
            without, score = (parts(FAMILY[policy].score(one)) for one in (window, full))
            assert all(one.equal(other) for one, other in zip(without, score, strict=True))
            assert eviction_loss(window).equal(eviction_loss(full))
            assert cake_layer_weight(window).equal(cake_layer_weight(full))
            sums = [head_statistics(without[0].abs(), caps) for caps in (None, full.caps)]
            assert sums[0].equal(sums[1])
            entropies = [normalized_entropy(sums[0].sum(dim=0), heads * count, caps) for caps in (None, full.caps)]
            assert entropies[0].equal(entropies[1])

    check()


@pytest.mark.parametrize("policy", [name for name in POLICIES if name not in ORDER_COUNTS])
def test_the_order_of_heads_changes_nothing(policy: str) -> None:
    @given(ragged_windows(), st.randoms())
    def check(window: ScoringWindow, random: object) -> None:
        same = list(range(len(window.queries)))
        order = random.sample(same, len(same))
        scores, moved = (FAMILY[policy].score(reordered(window, heads)) for heads in (same, order))
        for one, other in zip(parts(scores), parts(moved), strict=True):
            assert one[order].equal(other)

    check()


def reordered(window: ScoringWindow, order: list[int]) -> ScoringWindow:
    """The same heads in another order, copied: products of other strides may round otherwise."""
    visible = window.visible
    names = ("queries", "caps", "positions", "sinks", "output_weight")
    heads = {name: None if (part := getattr(window, name)) is None else part[order] for name in names}
    chunks = {name: [part[order] for part in getattr(window, name)] for name in ("keys", "values")}
    return replace(
        window, **heads, **chunks, visible=visible[order] if visible is not None and visible.ndim == 4 else visible
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_no_score_waits_for_the_device(policy: str) -> None:
    @given(pieces)
    def check(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
        for window in pair:
            with no_waiting():
                scores = parts(FAMILY[policy].score(window))[0]
                eviction_loss(window)
                cake_layer_weight(window)
                sums = head_statistics(scores, window.caps)
                normalized_entropy(sums.sum(dim=0), scores.numel(), window.caps)

    check()


@given(ragged_windows())
def test_the_entropy_is_that_of_the_candidates(window: ScoringWindow) -> None:
    caps = window.caps
    scores = lava_score(window).masked_fill(window.empty, 7.0)  # any finite number may stand there
    entropy = normalized_entropy(head_statistics(scores, caps).sum(dim=0), scores.numel(), caps)
    held = [row[: cap_of(window, head)].tolist() for head, row in enumerate(scores)]
    flat = [score for row in held for score in row]
    # As for heads of one length: two numbers of size |ln s| are subtracted, each sum rounds once a term.
    size = max([abs(math.log(score)) for score in flat if score > 0], default=0.0) + 4
    bound = (scores.numel() + 4) * size * EPSILON / math.log(max(len(flat), 2))
    assert abs(float(entropy) - normalized_entropy_naive(held)) <= bound


@given(pieces)
def test_cakes_layer_weight_is_that_of_the_candidates(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    whole, known = pair[0], attention(pair[0])
    heads = [alone(whole, head) for head in range(len(whole.queries))]
    spread = math.fsum(attention_spread_naive(naive(one)) for one in heads)
    variance = math.fsum(x for one in heads for row in variance_naive(naive(one)) for x in row)
    count = known.exact[:, :, 0, : whole.num_evictable].numel()
    spread_error, error = entropy_error(known, whole.num_evictable), count * variance_error(whole, known)
    for window in pair:
        bound = spread * error + spread_error * (variance + error)
        assert abs(float(cake_layer_weight(window)) - spread * variance) <= bound


def test_known_attention_is_zero_in_empty_places() -> None:
    """The evidence itself: two candidates of one head, none of the other."""
    keys = torch.zeros(2, 3, 1)
    window = ScoringWindow(torch.zeros(2, 1, 1, 1), [keys], [keys], 1.0, caps=torch.tensor([2, 0]))
    known: Attention = attention(window)
    assert known.exact[:, 0, 0].tolist() == [[pytest.approx(1 / 3)] * 3, [0, 0, 1]]
    assert window.attention[:, 0, 0].tolist() == [[torch.tensor(1 / 3).item()] * 3, [0, 0, 1]]
