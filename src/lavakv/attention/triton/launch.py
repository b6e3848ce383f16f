"""Launches the kernels over a ragged past and a tail. Reads nothing back from the device."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.attention.request import AttentionRequest
from lavakv.attention.triton import kernel
from lavakv.attention.triton.sizes import block_rows, launch_shape, tile_size
from lavakv.store.past import RaggedPast
from lavakv.store.ragged import RaggedStore
from lavakv.store.tiles import Tiles

_BLOCK_TILES = 16


class Tail(NamedTuple):
    """What stands behind the survivors.

    Attributes:
        keys: `[B, H, capacity, head_dim]`, rows contiguous and sequences evenly spaced, as `GrowingKeyValues` has them.
        values: `[B, H, capacity, value_dim]`, likewise. Columns that are not in use are not read.
        length: columns in use, or what is added to `start`.
        start: int64 `[1]` on the device, or None for 0.
    """

    keys: Tensor
    values: Tensor
    length: int
    start: Tensor | None = None


class TileLaunch:
    """What all launches over layers of the same sizes have in common.

    Args:
        queries: `[B, query_heads, q, head_dim]`.
        values: `[B, H, capacity, value_dim]`, of the tail.
    """

    def __init__(self, queries: Tensor, values: Tensor) -> None:
        _, query_heads, num_queries, head_dim = queries.shape
        heads, value_dim = values.shape[1], values.shape[3]
        group = query_heads // heads
        shape = launch_shape(head_dim, value_dim, queries.element_size())
        self._rows = group * num_queries
        self._num_processors = num_processors(queries.device)
        self._sizes = {"HEADS": heads, "GROUP": group, "NUM_QUERIES": num_queries, "VALUE_DIM": value_dim,
                       "BLOCK_VALUE": shape.block_value}  # fmt: skip
        self._tile_sizes = {"HEAD_DIM": head_dim, "BLOCK_ROWS": block_rows(self._rows),
                            "BLOCK_ENTRIES": shape.block_entries, "BLOCK_HEAD": shape.block_head,
                            "num_warps": shape.num_warps, "num_stages": shape.num_stages}  # fmt: skip
        self._merge_warps = 1 if value_dim <= 64 else 4

    def __call__(self, store: RaggedStore, request: AttentionRequest) -> Tensor:
        """Attention to a store as it is now."""
        past, tail = store.past, store.tail
        assert past is not None
        assert tail is not None
        return self.attend(past, Tail(*tail.buffers, tail.length), request)

    def attend(self, past: RaggedPast, tail: Tail, request: AttentionRequest) -> Tensor:
        """Attention of new queries to survivors and tail; the fast twin of `attend_ragged`.

        Returns:
            `[B, query_heads, q, value_dim]` in the queries' dtype, a view of a contiguous
            `[B, q, query_heads, value_dim]`.
        """
        queries = request.queries if request.queries.stride(3) == 1 else request.queries.contiguous()
        batch, query_heads, num_queries, _ = queries.shape
        _, heads, capacity, value_dim = tail.values.shape
        tiles, on_device = self._tiles(past), tail.start is not None
        num_past_tiles, num_tail_tiles = tiles.num_tiles, -(-(capacity if on_device else tail.length) // tiles.size)
        num_tiles = num_past_tiles + batch * heads * num_tail_tiles
        outputs = queries.new_empty(num_tiles, self._rows, value_dim, dtype=torch.float32)
        log_sums = queries.new_empty(num_tiles, self._rows, 1, dtype=torch.float32)
        merged = queries.new_empty(batch, num_queries, query_heads, value_dim)
        scaling, softcap, sinks = request.settings
        mask, *mask_strides = (queries, 0, 0, 0) if request.tail_mask is None else _strided(request.tail_mask, batch)
        past_mask, *past_strides = (
            (queries, 0, 0, 0) if request.past_mask is None else _strided(request.past_mask, batch)
        )
        start = tail.start if tail.start is not None else queries  # unused pointers must still point somewhere
        counts = (tiles.size, num_past_tiles, num_tail_tiles, tail.length)
        with torch.cuda.device(queries.get_device()):  # Triton launches on the current device, models may span several
            kernel.attend_tile[(num_tiles,)](
                queries, past.keys, past.values, tail.keys, tail.values, mask, past_mask, past.columns, start,
                tiles.work, outputs, log_sums, *_scales(scaling, softcap), *counts, *queries.stride()[:3],
                tail.keys.stride(1), tail.values.stride(1), *mask_strides, *past_strides, **self._sizes,
                **self._tile_sizes, ON_DEVICE=on_device, HAS_MASK=request.tail_mask is not None,
                HAS_PAST_MASK=request.past_mask is not None, HAS_SOFTCAP=softcap is not None,
            )  # fmt: skip
            kernel.merge_tiles[(batch * heads, self._rows)](
                outputs, log_sums, tiles.first, start, queries if sinks is None else sinks, merged, *counts,
                **self._sizes, ON_DEVICE=on_device, BLOCK_TILES=_BLOCK_TILES, HAS_SINKS=sinks is not None,
                num_warps=self._merge_warps,
            )  # fmt: skip
        return merged.transpose(1, 2)

    def _tiles(self, past: RaggedPast) -> Tiles:
        """The survivors' tiles on this device, planned once for as long as they stay."""
        tiles = past.planned_tiles.get(self._num_processors)
        if tiles is None:
            tiles = past.tiles(tile_size(past.num_entries, self._num_processors))
            past.planned_tiles[self._num_processors] = tiles
        return tiles


def attend_tiles(past: RaggedPast, tail: Tail, request: AttentionRequest) -> Tensor:
    """Attention of new queries to survivors and tail, prepared and launched; see `TileLaunch.attend`."""
    return TileLaunch(request.queries, tail.values).attend(past, tail, request)


def _strided(mask: Tensor, batch: int) -> tuple[Tensor, int, int, int]:
    """The mask as bytes and its strides over sequences, queries and columns."""
    sequence, _, query, column = mask.expand(batch, -1, -1, -1).stride()
    return mask.view(torch.uint8), sequence, query if mask.shape[2] > 1 else 0, column


def _scales(scaling: float, softcap: float | None) -> tuple[float, float]:
    """Factors on the products and on the capped logits, such that logits come out to the base 2."""
    to_base_2 = 1 / math.log(2)
    return (scaling * to_base_2, 1.0) if softcap is None else (scaling / softcap, softcap * to_base_2)


@cache
def num_processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; 1 for the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
