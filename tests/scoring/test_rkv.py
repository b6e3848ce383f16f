"""R-KV's score against the loops, and what its redundancy says of copies."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lavakv.scoring.rkv import importance_among_candidates, redundancy, rkv_score, spared
from lavakv.scoring.window import ScoringWindow
from tests.allocations import Allocations
from tests.scoring import twins
from tests.scoring.bounds import assert_near, attention
from tests.scoring.cases import full_windows, pairs

whole = pairs(full_windows())


def _window(tokens: int, rows: int = 4, heads: int = 2, dim: int = 8) -> ScoringWindow:
    generator = torch.Generator().manual_seed(tokens)
    keys, values = (torch.randn(heads, tokens, dim, generator=generator) for _ in range(2))
    return ScoringWindow(torch.randn(heads, 2, rows, dim, generator=generator), [keys], [values], 0.5)


@given(whole)
def test_the_score_and_its_parts_equal_the_loops(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    assume(twins.similarity_is_clear(pair[0]))
    known = attention(pair[0])
    for score, twin in (
        (importance_among_candidates, twins.importance_among_candidates),
        (redundancy, twins.redundancy),
        (rkv_score, twins.rkv),
    ):
        exact, bound = twin(pair[0], known)
        for window in pair:
            assert_near(score(window), exact, bound)


@given(st.integers(5, 60), st.integers(0, 12))
def test_tiles_of_any_size_spare_the_same(tokens: int, power: int) -> None:
    """A likeness may lie in any tile, before or behind; sums are the same to the bit wherever products are."""
    window = _window(tokens)
    assume(twins.similarity_is_clear(window))
    lengths = window.keys[0].norm(dim=-1)
    found = [spared(replace(window, max_block_elements=most), lengths) for most in (2**power, 2**24)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)


def test_the_latest_of_several_copies_is_the_least_redundant() -> None:
    """Three equal keys: each spares the latest of the other two; so the last is spared twice, the one before once."""
    window = _window(40, dim=64)
    keys = window.keys[0].clone()
    keys[:, [5, 17, 30]] = keys[:, [5]]
    window = replace(window, keys=[keys])
    cosines = torch.nn.functional.normalize(keys, dim=-1) @ torch.nn.functional.normalize(keys, dim=-1).mT
    cosines.diagonal(dim1=1, dim2=2).zero_()
    alike = cosines.masked_fill(torch.isin(torch.arange(40), torch.tensor([5, 17, 30])), 0.0)
    assert not bool((alike > 0.5).any()), "random keys resemble each other by chance"
    counts = spared(window, keys.norm(dim=-1))
    expected = torch.zeros(2, 40)
    expected[:, 30], expected[:, 17] = 2.0, 1.0
    torch.testing.assert_close(counts, expected)
    score = redundancy(window)
    assert bool((score[:, 5] > score[:, 17]).all())
    assert bool((score[:, 17] > score[:, 30]).all())
    plain = redundancy(_window(40, dim=64))
    assert bool((score[:, 5] > plain[:, 5]).all())


def test_copies_that_are_attended_alike_go_oldest_first() -> None:
    """Keys of zero resemble nothing; equal keys are one entry that stays and many that need not."""
    window = replace(_window(30), queries=torch.zeros(2, 2, 4, 8))
    equal = replace(window, keys=[torch.ones(2, 30, 8)])
    score = rkv_score(equal)
    assert bool((score[:, :-1] <= score[:, 1:]).all())
    nothing = rkv_score(replace(window, keys=[torch.zeros(2, 30, 8)]))
    assert nothing.unique().numel() == 1


def test_a_row_that_sees_no_candidate_pays_none() -> None:
    window = _window(20)
    visible = torch.ones(4, 20, dtype=torch.bool)
    visible[1, :16] = False
    seen = importance_among_candidates(replace(window, visible=visible))
    torch.testing.assert_close(seen.sum(dim=1), torch.full((2,), 0.75))
    visible[:, :16] = False
    assert not importance_among_candidates(replace(window, visible=visible)).any()


def test_sinks_take_nothing_from_the_candidates() -> None:
    window = _window(20)
    assert rkv_score(replace(window, sinks=torch.full((2, 2), 9.0))).equal(rkv_score(window))
    torch.testing.assert_close(importance_among_candidates(window).sum(dim=1), torch.ones(2))


def test_no_square_of_the_prompt_exists() -> None:
    """Cosines of 3,000 keys would be 72 MB a layer of two heads."""
    window = replace(_window(3000, dim=16), max_block_elements=2**16)
    with Allocations() as watch:
        rkv_score(window)
    assert watch.largest <= 2 * 4 * 2**16
    assert watch.peak <= 8 * 4 * 2**16
