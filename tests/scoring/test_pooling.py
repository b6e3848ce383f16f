"""Pooling where places are empty: over neighbouring places, or over positions within reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lavakv.scoring import pooling
from lavakv.scoring.lava import lava_score
from lavakv.scoring.naive.family import average_pool_naive
from lavakv.scoring.naive.window import max_pool_naive
from lavakv.scoring.pooling import Places, average_pool, average_pool_blocks, max_pool
from tests.scoring.bounds import EPSILON, assert_near, largest
from tests.scoring.cases import full_windows

WAYS: dict[str, tuple[Callable[..., Tensor], Callable[..., list[float]]]] = {
    "max": (max_pool, max_pool_naive),
    "average": (average_pool, average_pool_naive),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[Tensor, Places, list[int]]:
    """Rows `[H, 2, n]` that are zero in empty places, ascending positions, and how many places each head holds."""
    heads, count = draw(st.integers(1, 3)), draw(st.integers(0, 14))
    caps = draw(st.lists(st.integers(0, count), min_size=heads, max_size=heads))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    empty = torch.arange(count) >= torch.tensor(caps)[:, None]
    positions = torch.rand(heads, 2 * count + 1, generator=generator).argsort(dim=1)[:, :count].sort(dim=1).values
    rows = torch.rand(heads, 2, count, generator=generator).masked_fill(empty[:, None], 0)
    return rows, Places(empty, positions.masked_fill(empty, draw(st.sampled_from([0, 2**62]))), False), caps


@pytest.mark.parametrize("way", WAYS)
def test_neighbouring_places_are_pooled(way: str) -> None:
    @given(tables(), st.sampled_from([1, 3, 5, 7]))
    def check(table: tuple[Tensor, Places, list[int]], kernel: int) -> None:
        (rows, places, caps), (pool, loops) = table, WAYS[way]
        for pooled, head, cap in zip(pool(rows, kernel, places), rows, caps, strict=True):
            for one, row in zip(pooled, head, strict=True):
                exact = torch.tensor(loops(row[:cap].tolist(), kernel), dtype=torch.float64)
                assert_near(one[:cap], exact, (kernel + 1) * EPSILON * largest(exact))
                assert not bool(one[cap:].any())

    check()


@pytest.mark.parametrize("way", WAYS)
def test_positions_within_reach_are_pooled(way: str) -> None:
    """As if every position had a place, those that are gone holding nothing."""

    @given(tables(), st.sampled_from([1, 3, 5, 7]))
    def check(table: tuple[Tensor, Places, list[int]], kernel: int) -> None:
        (rows, places, caps), (pool, loops) = table, WAYS[way]
        found = pool(rows, kernel, places._replace(by_position=True))
        for pooled, head, where, cap in zip(found, rows, places.positions, caps, strict=True):
            held = where[:cap]
            for one, row in zip(pooled, head, strict=True):
                line = torch.zeros(64).scatter(0, held, row[:cap])
                exact = torch.tensor(loops(line.tolist(), kernel), dtype=torch.float64)[held]
                assert_near(one[:cap], exact, (kernel + 1) * EPSILON * largest(exact))
                assert not bool(one[cap:].any())

    check()


@given(tables(), st.lists(st.integers(0, 9), max_size=4), st.sampled_from([1, 3, 5]), st.booleans())
def test_pooling_of_blocks_is_pooling_of_all(
    table: tuple[Tensor, Places, list[int]], cuts: list[int], kernel: int, by_position: bool
) -> None:
    rows, places = table[0], table[1]._replace(by_position=by_position)
    blocks = rows.tensor_split(sorted(cuts), dim=-1)
    pooled = list(average_pool_blocks(blocks, kernel, places))
    assert torch.equal(torch.cat(pooled, dim=-1), average_pool(rows, kernel, places))


@given(full_windows())
def test_without_gaps_both_ways_are_one(window) -> None:
    full = replace(window, caps=torch.full((len(window.queries),), window.num_evictable))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooling, "BY_POSITION", True)
        assert lava_score(full).equal(lava_score(window))
