from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lavakv.budgets.naive import pool_counts_naive, tiers_naive
from lavakv.scoring.tiers import TieredScores
from lavakv.selection.pool import Pool
from lavakv.selection.ranking import rank
from tests.budgets.strategies import tied_scores
from tests.eviction.controlled import marked

layers = st.lists(st.tuples(tied_scores(max_heads=3, max_evictable=5), st.booleans()), min_size=1, max_size=5)


def _score(scores: Tensor, tiered: bool) -> Tensor | TieredScores:
    return marked(scores) if tiered else scores


@given(layers, st.integers(0, 40), st.integers(0, 2))
def test_the_pool_equals_sorting_everything(layers: list[tuple[Tensor, bool]], size: int, guaranteed: int) -> None:
    """Ties of all kinds; layers with tiers and without; a layer's part depends on none that comes later."""
    pool, known = Pool(size), []
    for scores, tiered in layers:
        ranking = rank(_score(scores, tiered), guaranteed)
        pool.add(len(scores), ranking.pooled_heads, ranking.pooled_scores, ranking.pooled_tiers)
        marks = marked(scores).protected.tolist() if tiered else None
        known.append((scores.tolist(), tiers_naive(scores.tolist(), marks, guaranteed)))
        counts = [count for layer in pool_counts_naive(known, size) for count in layer]
        assert pool.counts().tolist() == counts
        assert sum(counts) == min(size, sum(len(layer) * len(layer[0]) for layer, _ in known))


def test_an_empty_pool_counts_nothing() -> None:
    assert Pool(3).counts().tolist() == []
