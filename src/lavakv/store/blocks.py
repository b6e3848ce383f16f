"""Equal blocks over the entries of all segments, so that one call attends to all heads however unequal they are.

A flat buffer has one stride, so blocks start at regular rows whatever the segments are; a block on a border serves the
segments of both sides, each under a mask. The last block reaches back over the one before by what the division leaves:
nothing is padded, nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

MAX_ENTRIES = 256  # of a block, about; measured best on two cores among 64, 128 and 256 (docs/log.md)
MIN_ENTRIES = 64
MAX_SLOTS = 4  # more segments in one block, and a call for each segment is cheaper


class Blocks(NamedTuple):
    """Where each segment's entries are, and whose queries each block needs.

    Attributes:
        starts: rows from one block's start to the next one's.
        length: entries of a block.
        sources: int64 `[num_blocks * slots]`, the segment whose queries a slot of a block takes.
        mask: `[num_blocks, slots, length]`, 0 or -inf to add to logits; None where no block needs one.
        parts: int64 `[segments * most_parts]`, the slots that hold each segment's results, filled up with 0.
        absent: `[segments, most_parts, 1]`, -inf for what is only filled up, else 0.
    """

    starts: int
    length: int
    sources: Tensor
    mask: Tensor | None
    parts: Tensor
    absent: Tensor

    @property
    def num_blocks(self) -> int:
        """Blocks in all."""
        return len(self.sources) // self.num_slots

    @property
    def num_slots(self) -> int:
        """Segments that a block can serve."""
        return 1 if self.mask is None else self.mask.shape[1]

    def view(self, entries: Tensor) -> Tensor:
        """The blocks of a flat `[entries, dim]`, as `[num_blocks, 1, length, dim]`; they overlap in memory."""
        row, column = entries.stride()
        shape = (self.num_blocks, 1, self.length, entries.shape[1])
        return entries.as_strided(shape, (self.starts * row, self.length * row, row, column), entries.storage_offset())


def plan_blocks(offsets: Sequence[int], dtype: torch.dtype, device: torch.device) -> Blocks | None:
    """Cut segments into blocks, or None where too many segments would meet in one.

    Args:
        offsets: segment `i` is entries `offsets[i]` to `offsets[i + 1]`; at least one entry.
        dtype: of the mask.
        device: of what is made.
    """
    num_entries = offsets[-1]
    spans = list(pairwise(offsets))
    mean_entries = num_entries // sum(stop > start for start, stop in spans)
    num_blocks = max(num_entries // min(max(mean_entries, MIN_ENTRIES), MAX_ENTRIES), 1)
    starts = num_entries // num_blocks
    length = num_entries - starts * (num_blocks - 1)
    owners = _owners(spans, num_blocks, starts)
    slots = max(map(len, owners))
    if slots > MAX_SLOTS:
        return None
    mask = torch.full((num_blocks, slots, length), float("-inf"), dtype=dtype, device=device)
    all_shown = slots == 1
    for block, owner in enumerate(owners):
        first, last = block * starts, num_entries if block == num_blocks - 1 else (block + 1) * starts
        for slot, segment in enumerate(owner + owner[:1] * (slots - len(owner))):
            start, stop = spans[segment]
            shown = slice(max(start, first) - first, min(stop, last) - first)
            mask[block, slot, shown] = 0.0
            all_shown = all_shown and (shown.start, shown.stop) == (0, length)
    places = [[b * slots + owner.index(s) for b, owner in enumerate(owners) if s in owner] for s in range(len(spans))]
    most = max(map(len, places))
    absent = [[0.0] * len(found) + [float("-inf")] * (most - len(found)) for found in places]
    return Blocks(
        starts=starts,
        length=length,
        sources=torch.tensor([s for owner in owners for s in owner + owner[:1] * (slots - len(owner))], device=device),
        mask=None if all_shown else mask,
        parts=torch.tensor([found + [0] * (most - len(found)) for found in places], device=device).flatten(),
        absent=torch.tensor(absent, dtype=torch.float32, device=device)[..., None],
    )


def _owners(spans: Sequence[tuple[int, int]], num_blocks: int, starts: int) -> list[list[int]]:
    """The segments that have entries in each block."""
    owners: list[list[int]] = [[] for _ in range(num_blocks)]
    for segment, (start, stop) in enumerate(spans):
        if start < stop:
            for block in range(min(start // starts, num_blocks - 1), min((stop - 1) // starts, num_blocks - 1) + 1):
                owners[block].append(segment)
    return owners
