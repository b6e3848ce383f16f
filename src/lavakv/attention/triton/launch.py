"""Launches the kernels over a ragged past and a tail. Reads nothing back from the device."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.attention.request import AttentionRequest
from lavakv.attention.triton import kernel
from lavakv.attention.triton.plan import block_rows, launch_shape, tile_size
from lavakv.store.past import RaggedPast

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


def attend_tiles(past: RaggedPast, tail: Tail, request: AttentionRequest) -> Tensor:
    """Attention of new queries to survivors and tail; the fast twin of `attend_ragged`.

    Returns:
        `[B, query_heads, q, value_dim]` in the queries' dtype, a view of a contiguous `[B, q, query_heads, value_dim]`.
    """
    queries = request.queries if request.queries.stride(3) == 1 else request.queries.contiguous()
    batch, query_heads, num_queries, head_dim = queries.shape
    heads, capacity, value_dim = tail.values.shape[1:]
    rows = query_heads // heads * num_queries
    tiles = past.tiles(tile_size(past.num_entries, _num_processors(queries.device)))
    num_tail_tiles = -(-(tail.length if tail.start is None else capacity) // tiles.size)
    num_tiles = tiles.num_tiles + batch * heads * num_tail_tiles
    outputs, log_sums = (queries.new_empty(num_tiles, rows, n, dtype=torch.float32) for n in (value_dim, 1))
    merged = queries.new_empty(batch, num_queries, query_heads, value_dim)
    scaling, softcap, sinks = request.settings
    mask, *mask_strides = _mask_arguments(request.tail_mask, batch, unused=queries)
    past_mask, *past_strides = _mask_arguments(request.past_mask, batch, unused=queries)
    shape = launch_shape(head_dim, value_dim, queries.element_size())
    start = queries if tail.start is None else tail.start  # unused pointers must still point somewhere
    counts = (tiles.size, tiles.num_tiles, num_tail_tiles, tail.length)
    sizes = {"HEADS": heads, "GROUP": query_heads // heads, "NUM_QUERIES": num_queries, "VALUE_DIM": value_dim}
    sizes |= {"BLOCK_VALUE": shape.block_value, "ON_DEVICE": tail.start is not None}
    with torch.cuda.device(queries.get_device()):  # Triton launches on the current device, models may span several
        kernel.attend_tile[(num_tiles,)](
            queries, past.keys, past.values, tail.keys, tail.values, mask, past_mask, past.columns, start, tiles.work,
            outputs, log_sums, *_scales(scaling, softcap), *counts, *queries.stride()[:3], tail.keys.stride(1),
            tail.values.stride(1), *mask_strides, *past_strides, **sizes, HEAD_DIM=head_dim,
            BLOCK_ROWS=block_rows(rows), BLOCK_ENTRIES=shape.block_entries, BLOCK_HEAD=shape.block_head,
            HAS_MASK=request.tail_mask is not None, HAS_PAST_MASK=request.past_mask is not None,
            HAS_SOFTCAP=softcap is not None, num_warps=shape.num_warps, num_stages=shape.num_stages,
        )  # fmt: skip
        kernel.merge_tiles[(batch * heads, rows)](
            outputs, log_sums, tiles.first, start, queries if sinks is None else sinks, merged, *counts,
            **sizes, BLOCK_TILES=_BLOCK_TILES, HAS_SINKS=sinks is not None, num_warps=1 if value_dim <= 64 else 4,
        )  # fmt: skip
    return merged.transpose(1, 2)


def _mask_arguments(mask: Tensor | None, batch: int, unused: Tensor) -> tuple[Tensor, int, int, int]:
    """The mask as bytes and its strides over sequences, queries and columns."""
    if mask is None:
        return unused, 0, 0, 0
    sequence, _, query, column = mask.expand(batch, -1, -1, -1).stride()
    return mask.view(torch.uint8), sequence, query if mask.shape[2] > 1 else 0, column


def _scales(scaling: float, softcap: float | None) -> tuple[float, float]:
    """Factors on the products and on the capped logits, such that logits come out to the base 2."""
    to_base_2 = 1 / math.log(2)
    return (scaling * to_base_2, 1.0) if softcap is None else (scaling / softcap, softcap * to_base_2)


@cache
def _num_processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; 1 for the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
