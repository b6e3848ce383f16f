"""Tiles of equal size over segments of unequal length, planned on the device that will do the work."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Tiles(NamedTuple):
    """Segments cut into tiles of at most `size` entries, in the order of the entries.

    Attributes:
        size: entries of a full tile.
        work: int64 `[3, num_tiles]`: each tile's segment, first entry, and number of entries (0: nothing to do).
        first: int64 `[segments + 1]`: segment `i` has the tiles `first[i]` to `first[i + 1]`.
    """

    size: int
    work: Tensor
    first: Tensor

    @property
    def num_tiles(self) -> int:
        """Tiles planned, unused ones at the end included."""
        return self.work.shape[1]


def plan_tiles(offsets: Tensor, size: int, num_tiles: int) -> Tiles:
    """Cut segments into tiles without reading anything back from the device.

    Args:
        offsets: int64 `[segments + 1]`, at least one segment: segment `i` is entries `offsets[i]` to `offsets[i + 1]`.
        size: most entries of a tile.
        num_tiles: tiles to plan, at least `sum(ceil(length / size))`; `entries // size + segments` is always enough.
    """
    per_segment = (offsets.diff() + size - 1).div(size, rounding_mode="floor")
    first = torch.cat([offsets.new_zeros(1), per_segment.cumsum(0)])
    index = torch.arange(num_tiles, device=offsets.device)
    segment = (torch.searchsorted(first, index, right=True) - 1).clamp(max=len(offsets) - 2)
    start = offsets.take(segment) + (index - first.take(segment)) * size
    count = (offsets.take(segment + 1) - start).clamp(0, size)
    return Tiles(size, torch.stack([segment, start, count]), first)
