"""Scores that compare an entry with those around it against the loops, in prompts and where heads are ragged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lavakv.policy.builtin import FAMILY
from lavakv.scoring.chunkkv import CHUNK_SIZE, ChunkedScore
from lavakv.scoring.curdkv import curdkv_score
from lavakv.scoring.knorm import knorm_score
from lavakv.scoring.lagkv import lag_relative_spread, lagkv_score
from lavakv.scoring.naive.neighbours import chunk_means_naive, lagkv_order_naive
from lavakv.scoring.snapkv import snapkv_score
from lavakv.scoring.streaming_llm import streaming_llm_score
from lavakv.scoring.window import ScoringWindow
from lavakv.selection.ranking import rank
from tests.scoring import twins
from tests.scoring.bounds import EPSILON, assert_near, attention, largest
from tests.scoring.cases import alone, full_windows, pairs, ragged_windows, with_garbage

whole = pairs(full_windows())
either = st.one_of(whole, pairs(ragged_windows()))
sizes = (st.integers(0, 5), st.integers(1, 4))  # first positions, entries of a partition


def _long(tokens: int, rows: int = 4, heads: int = 2) -> ScoringWindow:
    generator = torch.Generator().manual_seed(tokens)
    keys, values = (torch.randn(heads, tokens, 4, generator=generator) for _ in range(2))
    return ScoringWindow(torch.randn(heads, 2, rows, 4, generator=generator), [keys], [values], 0.5)


def _heads(window: ScoringWindow) -> list[ScoringWindow]:
    return [alone(window, head) for head in range(len(window.queries))]


def _best_first(score: Tensor) -> list[int]:
    return score.sort(descending=True, stable=True).indices.tolist()


def _positions(one: ScoringWindow) -> list[int]:
    return one.candidate_positions[0].tolist()


@given(either, *sizes)
def test_the_spread_relative_to_the_next_partition_equals_the_loops(
    pair: tuple[ScoringWindow, ScoringWindow], num_first: int, lag_size: int
) -> None:
    heads = _heads(pair[0])
    for window in pair:
        found = lag_relative_spread(window, num_first, lag_size)
        assert bool(found.isfinite().all())
        for one, spread in zip(heads, found, strict=True):
            exact, bound = twins.lag_relative_spread(one, num_first, lag_size)
            assert_near(spread[: len(exact)], exact[: len(spread)], bound)


@pytest.mark.parametrize("most", [1, 2 * 3 * 4 * 5, 2**24])
@pytest.mark.parametrize("first", [0, 3])
def test_partitions_of_ragged_heads_are_those_of_each_head_alone(first: int, most: int) -> None:
    """Heads of 40, 23 and no candidates, of which 3, 1 and none are at the first positions, in blocks of any size."""
    window, caps = replace(_long(44, heads=3), max_block_elements=most), torch.tensor([40, 23, 0])
    positions = torch.arange(40) * torch.tensor([[1], [3], [1]])
    uneven = with_garbage(replace(window, caps=caps, positions=positions), 3e38)
    scores, spreads = lagkv_score(uneven, first, 5), lag_relative_spread(uneven, first, 5)
    for head, (cap, at_first) in enumerate(zip(caps.tolist(), [3, 1, 0], strict=True)):
        one = alone(uneven, head)
        partitions = max((cap + 4 - min(first, at_first)) // 5 - 1, 0)
        assert lagkv_score(one, first, 5)[0].equal(scores[head, :cap])
        assert lag_relative_spread(one, first, 5)[0, :partitions].equal(spreads[head, :partitions])


@given(either, *sizes)
def test_lagkv_ranks_within_partitions_and_keeps_both_ends(
    pair: tuple[ScoringWindow, ScoringWindow], num_first: int, lag_size: int
) -> None:
    heads = _heads(pair[0])
    for window in pair:
        found, scores = lag_relative_spread(window, num_first, lag_size), lagkv_score(window, num_first, lag_size)
        for one, spread, score in zip(heads, found.tolist(), scores, strict=True):
            first, count = twins.num_first(one, num_first), one.num_evictable
            scored = max((one.num_tokens - first) // lag_size - 1, 0)
            assert len(spread) >= min(scored, -(-(count - first) // lag_size))
            order = lagkv_order_naive(spread[:scored], first, count, lag_size)
            assert [place for place in _best_first(score) if place < count][: len(order)] == order or not order


@given(st.integers(1, 259), st.sampled_from([1, 4, 32]))
def test_less_than_two_partitions_are_kept_by_recency(tokens: int, rows: int) -> None:
    window = _long(max(tokens, rows), rows)
    assert rank(lagkv_score(window)).positions.tolist() == rank(streaming_llm_score(window)).positions.tolist()


def test_two_partitions_are_enough_for_one_to_be_scored() -> None:
    window = _long(260 + 50)
    score = lagkv_score(window)
    assert rank(lagkv_score(_long(259))).positions[0, 4:].tolist() == list(reversed(range(4, 255)))
    assert score[:, :4].unique().tolist() == [3 * 128]
    assert [row.sort().values.tolist() for row in score[:, 4:132]] == [list(range(128))] * 2
    assert score[0, 132:].tolist() == [128 + place for place in range(174)]


@pytest.mark.parametrize("zero", ["keys", "values"])
def test_a_reference_that_does_not_vary_says_nothing(zero: str) -> None:
    window = _long(24)
    flat = replace(window, **{zero: [torch.zeros(2, 24, 4)]})
    found = lag_relative_spread(flat, 4, 5)
    other = replace(flat, keys=flat.values, values=flat.keys)
    assert found.shape == (2, 3, 5)
    assert found.equal(lag_relative_spread(other, 4, 5))
    torch.testing.assert_close(found.sum(dim=2), torch.full((2, 3), 2.0))
    still = window.keys[0].clone()
    still[1, 9:14, 2] = -3.0  # one channel of the second partition, by which the first is measured
    for one in (flat, replace(window, keys=[still])):
        exact, bound = twins.lag_relative_spread(alone(one, 1), 4, 5)
        assert_near(lag_relative_spread(one, 4, 5)[1], exact, bound)


@given(whole)
def test_curdkv_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    exact, bound = twins.curdkv(pair[0], attention(pair[0]))
    for window in pair:
        assert_near(curdkv_score(window), exact, bound)


def test_leverage_is_relative_to_its_block() -> None:
    """Scaling one block of 16 changes nothing; scaling one entry of it does."""
    window = _long(70)
    score = curdkv_score(window)
    scales = torch.ones(70)
    scales[16:32] = 8.0
    scaled = replace(window, keys=[window.keys[0] * scales[:, None]])
    torch.testing.assert_close(curdkv_score(scaled), score)
    scales[16:31] = 1.0
    assert bool((curdkv_score(replace(window, keys=[window.keys[0] * scales[:, None]]))[:, 31] > score[:, 31]).all())
    assert score[:, :4].unique().tolist() == [1.0]


@given(either, st.integers(1, 12), st.sampled_from([knorm_score, snapkv_score]))
def test_chunks_are_means_over_heads_and_positions(
    pair: tuple[ScoringWindow, ScoringWindow], chunk_size: int, own: object
) -> None:
    held = [_positions(one) for one in _heads(pair[0])]
    for window in pair:
        scores = [row[: len(places)] for row, places in zip(own(window).tolist(), held, strict=True)]
        exact = chunk_means_naive(scores, held, chunk_size)
        found = ChunkedScore(own, chunk_size)(window)
        for row, mean in zip(found, exact, strict=True):
            expected = torch.tensor(mean, dtype=torch.float64)
            assert_near(row[: len(mean)], expected, EPSILON * largest(expected))


def _chunk_means(window: ScoringWindow, size: int) -> tuple[Tensor, float]:
    known = attention(window)
    exact = twins.snapkv(window, known)[0].mean(dim=0)
    means = torch.cat([part.mean().expand(len(part)) for part in exact.split(size)]) if len(exact) else exact
    return means.expand(len(window.queries), -1), known.mean_error


@given(whole, st.integers(2, 6))
def test_snapkv_in_chunks_equals_the_loops(pair: tuple[ScoringWindow, ScoringWindow], size: int) -> None:
    exact, bound = _chunk_means(pair[0], size)
    for window in pair:
        assert_near(ChunkedScore(snapkv_score, size)(window), exact, bound)


def test_chunkkv_is_snapkv_in_chunks_of_twenty() -> None:
    window = _long(73)
    assert FAMILY["chunkkv"].score(window)[0].unique().numel() == 4
    assert_near(FAMILY["chunkkv"].score(window), *_chunk_means(window, 20))


def test_chunks_of_one_token_are_the_score_itself_and_of_all_its_mean() -> None:
    window = _long(50, heads=1)
    assert ChunkedScore(snapkv_score, 1)(window).equal(snapkv_score(window))
    assert ChunkedScore(snapkv_score, 46)(window).unique().tolist() == [
        float(snapkv_score(window).double().mean().float())
    ]
    assert ChunkedScore(snapkv_score)(window).unique().numel() == -(-46 // CHUNK_SIZE)


def test_a_prompt_in_places_is_scored_to_the_bit_as_without() -> None:
    """Sums that depend on their order."""
    large = torch.tensor([[1e20, 1.0, 3.0], [-1e20, 1.0, 5.0]])
    chunk = torch.zeros(2, 4, 4)
    plain = ScoringWindow(torch.zeros(2, 1, 1, 4), [chunk], [chunk], 0.5)
    full = replace(plain, caps=torch.tensor([3, 3]))
    score = ChunkedScore(lambda _: large, 2)
    assert score(plain).tolist() == score(full).tolist() == [[0.5, 0.5, 4.0]] * 2
    partly = replace(plain, caps=torch.tensor([3, 1]))
    assert score(partly)[0, 2].item() == 3.0


@given(ragged_windows())
def test_what_other_heads_keep_in_empty_places_is_no_part_of_a_chunk(window: ScoringWindow) -> None:
    dirty = with_garbage(window, 1e30)
    clean = with_garbage(window, 0.0)
    scores = [ChunkedScore(knorm_score, 3)(one).masked_fill(window.empty, 0.0) for one in (clean, dirty)]
    assert scores[0].equal(scores[1])
