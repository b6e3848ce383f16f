from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavakv.budgets.naive import divide_naive, head_budgets_naive
from lavakv.budgets.split import equal_weights, head_budgets, pooled_weights, retained_while_trimming, shares
from lavakv.budgets.worst_case import worst_case_spare
from lavakv.selection.ranking import rank
from tests.budgets.strategies import tied_scores


@given(tied_scores(), st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.data())
def test_pooled_heads_equal_the_naive_count(scores: torch.Tensor, floor_share: float, data: st.DataObject) -> None:
    num_heads, num_evictable = scores.shape
    total = data.draw(st.integers(0, scores.numel()))
    weights = pooled_weights(rank(scores).pooled_heads, num_heads, total, floor_share)
    caps = torch.full((num_heads,), num_evictable)
    counts = head_budgets(weights, total, caps)
    assert counts.tolist() == head_budgets_naive(scores.tolist(), total, floor_share)
    assert int(counts.sum()) == total
    assert float(shares(weights, total, caps).sum()) == pytest.approx(total, rel=1e-12)


@given(tied_scores(), st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.data())
def test_heads_of_unequal_length_equal_the_naive_count(
    scores: torch.Tensor, floor_share: float, data: st.DataObject
) -> None:
    num_heads, num_places = scores.shape
    caps = torch.tensor(data.draw(st.lists(st.integers(0, num_places), min_size=num_heads, max_size=num_heads)))
    total = data.draw(st.integers(0, int(caps.sum())))
    weights = pooled_weights(rank(scores, caps=caps).pooled_heads, num_heads, total, floor_share)
    counts = head_budgets(weights, total, caps)
    ragged = [row[:count].tolist() for row, count in zip(scores, caps.tolist(), strict=True)]
    assert counts.tolist() == head_budgets_naive(ragged, total, floor_share)
    assert int(counts.sum()) == total
    assert bool((counts <= caps).all())
    assert float(shares(weights, total, caps).sum()) == pytest.approx(total, rel=1e-12)


def test_exact_ties_go_to_the_lower_head() -> None:
    """Shares of 37.5 and 25.5: quotients 37.5 / 75 and 25.5 / 51 tie for the last seat."""
    pooled = torch.tensor([0] * 39 + [1] * 24)
    assert head_budgets(pooled_weights(pooled, 2, 63, 0.2), 63, torch.tensor([100, 100])).tolist() == [38, 25]


@given(st.integers(1, 9), st.integers(0, 9), st.data())
def test_equal_heads_differ_by_one_at_most(num_heads: int, num_evictable: int, data: st.DataObject) -> None:
    total = data.draw(st.integers(0, num_heads * num_evictable))
    counts = head_budgets(equal_weights(num_heads), total, torch.full((num_heads,), num_evictable)).tolist()
    assert counts == divide_naive(total, [1.0] * num_heads, [num_evictable] * num_heads)
    assert max(counts) - min(counts) <= 1


@given(tied_scores(), st.sampled_from([0.0, 0.2, 1.0]))
def test_what_trimming_retains_covers_every_smaller_total(scores: torch.Tensor, floor_share: float) -> None:
    _assert_retained_covers(scores, floor_share)


@given(st.integers(1, 24), st.integers(1, 6), st.sampled_from([0.0, 0.2]), st.integers(0, 2**32 - 1))
def test_what_trimming_retains_covers_uneven_heads(heads: int, evictable: int, floor_share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    steepness = 4 * torch.rand(heads, 1, generator=generator)
    _assert_retained_covers(torch.rand(heads, evictable, generator=generator) ** steepness, floor_share)


@pytest.mark.parametrize("heads", [2, 3, 8, 16])
def test_what_trimming_retains_covers_a_giant_among_dwarfs(heads: int) -> None:
    """Dwarfs whose floor share just misses a seat leave the giant two fifths of the heads more than its share."""
    scores = torch.rand(heads, 2 * heads, generator=torch.Generator().manual_seed(0))
    scores[0] += 1.0
    _assert_retained_covers(scores, 0.2)


def test_trimming_needs_its_spare() -> None:
    """Without the spare a smaller total can ask for entries that are gone."""
    scores = torch.tensor([[9.0, 1, 1, 1], [8, 1, 1, 1], [7, 1, 1, 1], [6, 1, 1, 1], [5, 4, 3, 2]])
    pooled, shrinks = rank(scores).pooled_heads, []
    for total in range(21):
        weights = pooled_weights(pooled, 5, total, 0.2)
        caps = torch.full((5,), 4)
        shrinks.append((shares(weights, total, caps).floor().long(), head_budgets(weights, total, caps)))
    assert any(bool((shrinks[less][1] > shrinks[more][0]).any()) for more in range(21) for less in range(more))


@given(tied_scores(), st.sampled_from([0.0, 0.2, 1.0]), st.data())
def test_what_trimming_retains_covers_heads_of_unequal_length(
    scores: torch.Tensor, floor_share: float, data: st.DataObject
) -> None:
    num_heads, num_places = scores.shape
    caps = data.draw(st.lists(st.integers(0, num_places), min_size=num_heads, max_size=num_heads))
    _assert_retained_covers(scores, floor_share, torch.tensor(caps))


def _assert_retained_covers(scores: torch.Tensor, floor_share: float, caps: torch.Tensor | None = None) -> None:
    num_heads, num_evictable = scores.shape
    caps = torch.full((num_heads,), num_evictable) if caps is None else caps
    pooled = rank(scores, caps=caps).pooled_heads
    most = torch.zeros(num_heads, dtype=torch.int64)
    for total in range(int(caps.sum()) + 1):
        weights = pooled_weights(pooled, num_heads, total, floor_share)
        most = torch.maximum(most, head_budgets(weights, total, caps))  # of this and all smaller totals
        retained = retained_while_trimming(weights, total, caps)
        assert bool((most <= retained).all())
        assert bool((retained <= caps).all())
        assert int(retained.sum()) <= total + worst_case_spare(num_heads)
