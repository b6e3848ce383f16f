"""The plan of tiles against loops."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavakv.store.past import RaggedPast
from lavakv.store.tiles import plan_tiles


def looped(offsets: list[int], size: int) -> tuple[list[list[int]], list[int]]:
    """Segment, first entry and count of every tile, and each segment's first tile."""
    work, first = [], [0]
    for segment, (start, stop) in enumerate(pairwise(offsets)):
        for begin in range(start, stop, size):
            work.append([segment, begin, min(size, stop - begin)])
        first.append(len(work))
    return work, first


@given(st.lists(st.integers(0, 40), min_size=1, max_size=9), st.sampled_from([1, 3, 16, 64]), st.integers(0, 5))
def test_the_plan_equals_the_loops(lengths: list[int], size: int, spare: int) -> None:
    offsets = list(accumulate(lengths, initial=0))
    work, first = looped(offsets, size)
    tiles = plan_tiles(torch.tensor(offsets), size, len(work) + spare)
    assert tiles.work.T[: len(work)].tolist() == work
    assert tiles.first.tolist() == first
    assert tiles.work[2, len(work) :].tolist() == [0] * spare
    assert tiles.num_tiles == len(work) + spare
    assert len(work) <= sum(lengths) // size + len(lengths)  # the bound that needs no lengths


def test_entries_beyond_32_bits() -> None:
    offsets = torch.tensor([0, 2**33, 2**33 + 5])
    tiles = plan_tiles(offsets, 2**30, 9)
    assert tiles.work[1].tolist() == [i * 2**30 for i in range(8)] + [2**33]
    assert tiles.work[2].tolist() == [2**30] * 8 + [5]


def test_a_past_is_planned_once() -> None:
    past = RaggedPast(torch.zeros(7, 2), torch.zeros(7, 2), torch.zeros(7, dtype=torch.int32), [0, 5, 2])
    assert past.tiles(4) is past.tiles(4)
    assert past.tiles(4).work.T.tolist() == [[1, 0, 4], [1, 4, 1], [2, 5, 2]]
    assert past.trimmed([0, 1, 2]).tiles(4).work.T.tolist() == [[1, 0, 1], [2, 1, 2]]


def test_a_default_device_of_the_users_is_not_planned_on() -> None:
    past = RaggedPast(torch.zeros(7, 2), torch.zeros(7, 2), torch.zeros(7, dtype=torch.int32), [0, 5, 2])
    with torch.device("meta"):
        tiles = past.tiles(4)
    assert tiles.work.T.tolist() == [[1, 0, 4], [1, 4, 1], [2, 5, 2]]


@pytest.mark.parametrize("lengths", [[0], [0, 0, 0]])
def test_nothing_to_plan(lengths: list[int]) -> None:
    past = RaggedPast(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int32), lengths)
    assert past.tiles(64).num_tiles == 0
    assert past.tiles(64).first.tolist() == [0] * (len(lengths) + 1)
