from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavakv.budgets.naive import pooled_order_naive, tiers_naive
from lavakv.scoring.naive.tiers import best_first_naive
from lavakv.scoring.tiers import TieredScores, best_first
from lavakv.selection.ranking import best_entries, best_first_order, grouped_order, rank
from tests.budgets.strategies import tied_scores


def test_ties_rank_lower_heads_and_earlier_positions_first() -> None:
    ranking = rank(torch.tensor([[1.0, 2.0, 1.0], [2.0, 2.0, 1.0]]))
    assert ranking.positions.tolist() == [[1, 0, 2], [0, 1, 2]]
    assert ranking.pooled_heads.tolist() == [0, 1, 1, 0, 0, 1]
    assert ranking.pooled_scores.tolist() == [2, 2, 2, 1, 1, 1]
    assert ranking.pooled_tiers is None


def test_tiers_rank_before_scores() -> None:
    outright = torch.tensor([[False, False, True], [True, False, False]])
    ranking = rank(TieredScores(torch.tensor([[9.0, 8.0, 1.0], [2.0, 7.0, 3.0]]), outright), min_entries_per_head=0)
    assert ranking.positions.tolist() == [[2, 0, 1], [0, 1, 2]]
    assert ranking.pooled_heads.tolist() == [1, 0, 0, 0, 1, 1]
    assert ranking.pooled_scores.tolist() == [2, 1, 9, 8, 7, 3]
    assert ranking.pooled_tiers is not None
    assert ranking.pooled_tiers.tolist() == [1, 1, 0, 0, 0, 0]


def test_what_is_guaranteed_ranks_before_what_is_kept_outright() -> None:
    scores = torch.tensor([[9.0, 8.0], [2.0, 1.0]])
    outright = torch.tensor([[True, True], [False, True]])
    assert rank(scores, 1).pooled_heads.tolist() == [0, 1, 0, 1]
    ranking = rank(TieredScores(scores, outright), 1)
    assert ranking.positions.tolist() == [[0, 1], [1, 0]]
    assert ranking.pooled_heads.tolist() == [0, 1, 0, 1]
    assert ranking.pooled_tiers is not None
    assert ranking.pooled_tiers.tolist() == [2, 2, 1, 0]


@given(tied_scores(), st.integers(0, 10), st.booleans(), st.integers(0, 2**32 - 1))
def test_ranking_equals_the_loops(scores: torch.Tensor, guaranteed: int, tiered: bool, seed: int) -> None:
    marks = torch.rand(scores.shape, generator=torch.Generator().manual_seed(seed)) < 0.4
    ranking = rank(TieredScores(scores, marks) if tiered else scores, guaranteed)
    tiers = tiers_naive(scores.tolist(), marks.tolist() if tiered else None, guaranteed)
    order = pooled_order_naive(scores.tolist(), tiers)
    assert ranking.pooled_heads.tolist() == [head for head, _ in order]
    assert ranking.pooled_scores.tolist() == [scores[entry] for entry in order]
    if ranking.pooled_tiers is None:
        assert not tiered
        assert guaranteed == 0
    else:
        assert ranking.pooled_tiers.tolist() == [tiers[head][position] for head, position in order]
    for head, (row, marked) in enumerate(zip(scores.tolist(), marks.tolist(), strict=True)):
        by_rank = sorted(range(len(row)), key=lambda i: (-(tiered and marked[i]), -row[i], i))
        assert ranking.positions[head].tolist() == by_rank


@given(tied_scores(), st.integers(0, 10), st.booleans(), st.integers(0, 2**32 - 1), st.data())
def test_ranking_heads_of_unequal_length_equals_the_loops(
    scores: torch.Tensor, guaranteed: int, tiered: bool, seed: int, data: st.DataObject
) -> None:
    """Empty places hold garbage, rank last and are in no pool."""
    num_heads, num_places = scores.shape
    caps = data.draw(st.lists(st.integers(0, num_places), min_size=num_heads, max_size=num_heads))
    marks = torch.rand(scores.shape, generator=torch.Generator().manual_seed(seed)) < 0.4
    rows = [row[:cap].tolist() for row, cap in zip(scores, caps, strict=True)]
    marked = [row[:cap].tolist() for row, cap in zip(marks, caps, strict=True)]
    tiers = tiers_naive(rows, marked if tiered else None, guaranteed)
    garbage = data.draw(st.sampled_from([float("nan"), float("inf"), float("-inf"), 7.0]))
    filled = scores.masked_fill(torch.arange(num_places) >= torch.tensor(caps)[:, None], garbage)
    ranking = rank(TieredScores(filled, marks) if tiered else filled, guaranteed, torch.tensor(caps))
    order = pooled_order_naive(rows, tiers)
    assert ranking.pooled_heads.tolist() == [head for head, _ in order]
    assert ranking.pooled_scores.tolist() == [rows[head][place] for head, place in order]
    if ranking.pooled_tiers is not None:
        assert ranking.pooled_tiers.tolist() == [tiers[head][place] for head, place in order]
    for head, (row, mark, cap) in enumerate(zip(rows, marked, caps, strict=True)):
        by_rank = sorted(range(cap), key=lambda i: (-(tiered and mark[i]), -row[i], i))
        assert ranking.positions[head, :cap].tolist() == by_rank
        assert sorted(ranking.positions[head].tolist()) == list(range(num_places))


@pytest.mark.parametrize("shape", [(1, 0), (3, 0), (1, 1)])
@pytest.mark.parametrize("guaranteed", [0, 2])
@pytest.mark.parametrize("tiered", [False, True])
def test_ranking_the_smallest_layers(shape: tuple[int, int], guaranteed: int, tiered: bool) -> None:
    scores = torch.zeros(shape)
    ranking = rank(TieredScores(scores, scores == 0) if tiered else scores, guaranteed)
    assert ranking.positions.shape == shape
    assert ranking.pooled_heads.tolist() == [0] * (shape[0] * shape[1])


@given(tied_scores(), st.integers(-1, 11))
def test_the_best_are_marked_earlier_positions_first(scores: torch.Tensor, count: int) -> None:
    counts = torch.full((scores.shape[0],), count)
    assert best_first(scores, counts).tolist() == best_first_naive(scores.tolist(), max(count, 0))


hostile = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.4e38, -3.4e38, float("inf"), float("-inf")])


@given(st.lists(hostile, max_size=20), st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_orders_are_those_of_sorting_pairs(numbers: list[float], seed: int, tiered: bool, packed: bool) -> None:
    """Packed into whole numbers or not: no number is so odd that its place depends on it."""
    values = torch.tensor(numbers, dtype=torch.float32 if packed else torch.float64)[None]
    tiers = torch.randint(0, 3, values.shape, generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    order = best_first_order(values, tiers if tiered else None)
    tier = tiers[0].tolist() if tiered else [0] * len(numbers)
    assert order.tolist() == sorted(range(len(numbers)), key=lambda i: (-tier[i], -values[0, i].item(), i))
    assert values.equal(torch.tensor([numbers], dtype=values.dtype))  # the caller's scores are left alone


@given(st.lists(hostile, max_size=20), st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.integers(0, 22))
def test_the_best_entries_are_the_first_in_order(
    numbers: list[float], seed: int, tiered: bool, packed: bool, count: int
) -> None:
    values = torch.tensor(numbers, dtype=torch.float32 if packed else torch.float64)
    tiers = torch.randint(0, 3, values.shape, generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    marks = best_entries(values, tiers if tiered else None, count)
    first = best_first_order(values[None], tiers[None] if tiered else None)[:count]
    assert marks.nonzero().flatten().tolist() == sorted(first.tolist())


@pytest.mark.parametrize("tiered", [False, True])
def test_a_large_layer_is_ordered_as_a_small_one(tiered: bool) -> None:
    """Many entries are sorted digit by digit: ties, signs, zeros and infinities included."""
    generator = torch.Generator().manual_seed(0)
    odd = torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.4e38, -3.4e38, torch.inf, -torch.inf])
    values = torch.cat([odd[torch.randint(0, 10, (30_000,), generator=generator)], torch.randn(10_000)]).view(4, -1)
    tiers = torch.randint(-1, 3, values.shape, generator=generator).to(torch.int8) if tiered else None
    order = best_first_order(values, tiers)
    wide = best_first_order(values.double(), tiers)
    assert torch.equal(order, wide)


@given(st.lists(st.integers(-3, 3), max_size=20), st.sampled_from([torch.int8, torch.int16]))
def test_grouped_orders_are_stable(labels: list[int], dtype: torch.dtype) -> None:
    order = grouped_order(torch.tensor(labels, dtype=dtype)).tolist()
    assert order == sorted(range(len(labels)), key=lambda i: labels[i])
