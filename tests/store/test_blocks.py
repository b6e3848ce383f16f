"""Blocks over segments: every entry is seen once, by its own segment's queries, whatever the lengths."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lavakv.store import blocks as module
from lavakv.store.blocks import MAX_SLOTS, Blocks, plan_blocks

lengths = st.lists(st.integers(0, 40), min_size=1, max_size=9).filter(any)


def planned(counts: list[int], fewest: int, most: int) -> Blocks | None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MIN_ENTRIES", fewest)
        patch.setattr(module, "MAX_ENTRIES", most)
        return plan_blocks(list(accumulate(counts, initial=0)), torch.float32, torch.device("cpu"))


@given(lengths, st.integers(1, 6), st.integers(6, 50))
def test_every_entry_is_seen_once_by_its_own_segment(counts: list[int], fewest: int, most: int) -> None:
    blocks = planned(counts, fewest, most)
    assume(blocks is not None)
    assert blocks is not None
    entries = blocks.view(torch.arange(sum(counts))[:, None])[:, 0, :, 0]
    slots = blocks.num_slots
    mask = torch.zeros(blocks.num_blocks, 1, blocks.length) if blocks.mask is None else blocks.mask
    parts, absent = blocks.parts.view(len(counts), -1), blocks.absent[..., 0]
    start = 0
    for segment, count in enumerate(counts):
        places = parts[segment][absent[segment] == 0].tolist()
        assert all(blocks.sources[place] == segment for place in places)
        seen = [entries[place // slots][mask[place // slots, place % slots] == 0] for place in places]
        assert torch.cat([*seen, torch.zeros(0).long()]).tolist() == list(range(start, start + count))
        start += count


@given(lengths, st.integers(1, 6), st.integers(6, 50))
def test_no_row_is_without_an_entry(counts: list[int], fewest: int, most: int) -> None:
    """A softmax over nothing would be NaN, and NaN times a weight of zero still is."""
    blocks = planned(counts, fewest, most)
    assume(blocks is not None and blocks.mask is not None)
    assert blocks is not None
    assert blocks.mask is not None
    assert bool((blocks.mask == 0).any(dim=2).all())


def test_equal_segments_that_fill_blocks_need_no_mask() -> None:
    blocks = planned([16, 16, 16], 1, 16)
    assert blocks is not None
    assert blocks.mask is None
    assert blocks.num_blocks == 3


def test_too_many_segments_in_a_block_are_refused() -> None:
    assert planned([1] * (MAX_SLOTS + 1), 64, 64) is None
    assert planned([1] * MAX_SLOTS, 64, 64) is not None


def test_a_view_copies_nothing_and_keeps_to_a_sliced_buffer() -> None:
    blocks = planned([30, 17], 1, 8)
    assert blocks is not None
    wide = torch.randn(100, 6)
    entries = wide[11:58, 1:4]
    view = blocks.view(entries)
    assert view.data_ptr() == entries.data_ptr()
    assert view[-1, 0, -1].equal(entries[-1])
    assert view[1, 0, 0].equal(entries[blocks.starts])
