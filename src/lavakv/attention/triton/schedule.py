"""A past cut into tiles, as the kernels read it: one tensor on the device, planned once for each past."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.store.past import RaggedPast


class Schedule(NamedTuple):
    """Tiles of a past.

    Attributes:
        size: entries of a full tile.
        num_tiles: tiles of the past.
        max_tiles: most tiles of one segment.
        work: int64 `[3 * num_tiles + 2 * (segments + 1)]` on the device: of each tile the segment, then of each its
            first entry, then the number of its entries; then two numbers of each segment and one behind the last: its
            first tile, and how many of its tiles are done in the launch under way (0 between launches). Launches over
            one past must follow one another, as a cache's forwards do: two at a time would count each other's tiles.
    """

    size: int
    num_tiles: int
    max_tiles: int
    work: Tensor


def schedule_of(past: RaggedPast, size: int) -> Schedule:
    """Plan tiles of at most `size` entries."""
    tiles = past.tiles(size)
    with torch.inference_mode(False):
        segments = torch.stack([tiles.first, torch.zeros_like(tiles.first)], dim=1)
        work = torch.cat([tiles.work.flatten(), segments.flatten()])
    return Schedule(size, tiles.num_tiles, max(-(-length // size) for length in past.lengths()), work)
