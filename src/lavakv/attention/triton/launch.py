"""Launches the kernels over a ragged past and a tail. Reads nothing back from the device."""

from __future__ import annotations

import math
from collections.abc import Hashable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.attention.request import AttentionRequest
from lavakv.attention.triton.masks import NO_STRIDES, KernelMasks, kernel_masks, tail_reach
from lavakv.attention.triton.schedule import Schedule, schedule_of
from lavakv.attention.triton.sizes import MAX_MERGE_BYTES, MAX_PART_BYTES, PastSize, tile_size
from lavakv.attention.triton.variant import Variants
from lavakv.store.past import RaggedPast
from lavakv.store.ragged import RaggedStore

_MAX_LAUNCHES = 256  # remembered; chunks of many lengths must not fill the memory
_ALIGNMENT = 16  # Triton compiles other kernels for addresses (bytes) and sizes that are not divisible by it
_TO_BASE_2 = 1 / math.log(2)


class Tail(NamedTuple):
    """What stands behind the survivors.

    Attributes:
        keys: `[B, H, capacity, head_dim]`, contiguous, as `GrowingKeyValues` has them.
        values: `[B, H, capacity, value_dim]`, likewise. Columns that are not in use are not read.
        length: columns in use, or what is added to `start`.
        start: int64 `[1]` on the device, or None for 0.
    """

    keys: Tensor
    values: Tensor
    length: int
    start: Tensor | None = None


class TileLaunch:
    """What all launches over layers of the same sizes have in common, prepared once. Holds no tensor.

    Args:
        queries: `[B, query_heads, q, head_dim]`.
        values: `[B, H, capacity, value_dim]`, of the tail.

    Attributes:
        variants: the kernels it launches.
    """

    def __init__(self, queries: Tensor, values: Tensor) -> None:
        batch, query_heads, self._num_queries, _ = queries.shape
        heads, value_dim, itemsize = values.shape[1], values.shape[3], queries.element_size()
        self._segments, self._rows = batch * heads, query_heads // heads * self._num_queries
        self.variants = Variants(queries, values)
        self._num_row_blocks = self.variants.num_row_blocks
        self._index = queries.get_device()  # negative under Triton's interpreter
        self._schedule_key = num_processors(queries.device), self._num_row_blocks
        self._shape = (batch, query_heads, self._num_queries, value_dim)
        self._strides = (query_heads * self._num_queries * value_dim, value_dim, query_heads * value_dim, 1)
        self._output_numbers = -(-math.prod(self._shape) // _ALIGNMENT) * _ALIGNMENT
        self._tile_bytes = self._rows * (value_dim + 1) * 4  # its part of the output and its log sums, float32
        self._tile_numbers = self._tile_bytes // itemsize

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
        schedule = past.planned_tiles.get(self._schedule_key) or self._schedule(past)
        in_tail = tail.length if tail.start is None else tail.keys.shape[2]
        num_tail_tiles = -(-in_tail // schedule.size)
        num_tiles = schedule.num_tiles + self._segments * num_tail_tiles
        if self._num_row_blocks > 1 and num_tiles * self._tile_bytes > MAX_PART_BYTES:
            return self._attend_in_turns(past, tail, request, num_tiles * self._tile_bytes)
        # the output, and behind it the tiles' parts
        buffer = request.queries.new_empty(self._output_numbers + num_tiles * self._tile_numbers)
        if self._index < 0 or torch.cuda.current_device() == self._index:
            self._launch(schedule, num_tail_tiles, buffer, past, tail, request)
        else:  # Triton launches on the current device, models may span several
            with torch.cuda.device(self._index):
                self._launch(schedule, num_tail_tiles, buffer, past, tail, request)
        return buffer.as_strided(self._shape, self._strides)

    def _launch(
        self, schedule: Schedule, num_tail_tiles: int, buffer: Tensor, past: RaggedPast, tail: Tail,
        request: AttentionRequest,
    ) -> None:  # fmt: skip
        queries, (scaling, softcap, sinks), tail_mask, past_mask = request
        keys, values, length, start = tail
        strides = queries.stride()
        if strides[3] != 1:
            queries = queries.contiguous()
            strides = queries.stride()
        masks, reach = KernelMasks(queries, queries, NO_STRIDES), queries  # unused pointers must still point somewhere
        if tail_mask is not None or past_mask is not None:
            masks = kernel_masks(queries, tail_mask, past_mask)
            if tail_mask is not None and self._num_row_blocks > 1:
                reach = tail_reach(tail_mask, self._shape[0])
        merge = (
            self._num_row_blocks == 1 and (schedule.max_tiles + num_tail_tiles) * self._tile_bytes <= MAX_MERGE_BYTES
        )
        vectors = (queries, past.keys, past.values, keys, values)
        kind = (strides, _aligned(vectors), masks.kind, tail_mask is None, past_mask is None, softcap is None,
                None if sinks is None else sinks.dtype, start is None, merge)  # fmt: skip
        attend, then_merge = self.variants(kind, request, start is not None, merge)
        start_or_any, sinks_or_any = queries if start is None else start, queries if sinks is None else sinks
        num_tiles = schedule.num_tiles + self._segments * num_tail_tiles
        counts = (schedule.size, schedule.num_tiles, num_tail_tiles, length)
        scales = (scaling * _TO_BASE_2, 1.0) if softcap is None else (scaling / softcap, softcap * _TO_BASE_2)
        attend(
            (num_tiles, self._num_row_blocks, 1), *vectors, masks.tail, masks.past, past.columns, start_or_any, reach,
            schedule.work, sinks_or_any, buffer, self._output_numbers, *scales, *counts, keys.shape[2],
            self._num_queries, *strides[:3], *masks.strides,
        )  # fmt: skip
        if then_merge is not None:
            then_merge(
                (self._segments * self._rows, 1, 1), start_or_any, schedule.work, sinks_or_any, buffer,
                self._output_numbers, *counts, self._num_queries,
            )  # fmt: skip

    def _schedule(self, past: RaggedPast) -> Schedule:
        """The survivors' tiles on this device, planned once for as long as they stay."""
        size = PastSize(past.num_entries, self._segments, max(past.lengths(), default=0))
        found = past.planned_tiles[self._schedule_key] = schedule_of(past, tile_size(size, *self._schedule_key))
        return found

    def _attend_in_turns(self, past: RaggedPast, tail: Tail, request: AttentionRequest, part_bytes: int) -> Tensor:
        """A chunk so long that its parts would take too much memory: some of its queries at a time."""
        count = -(-self._num_queries // -(-part_bytes // MAX_PART_BYTES))
        parts = []
        for start in range(0, self._num_queries, count):
            some = slice(start, start + count)
            tail_mask, past_mask = (
                mask[:, :, some] if mask is not None and mask.shape[2] > 1 else mask
                for mask in (request.tail_mask, request.past_mask)
            )
            turn = AttentionRequest(request.queries[:, :, some], request.settings, tail_mask, past_mask)
            parts.append(launch_for(turn.queries, tail.values).attend(past, tail, turn).transpose(1, 2))
        return torch.cat(parts, dim=1).transpose(1, 2)


def _aligned(tensors: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]) -> Hashable:
    """True if all begin at addresses that are divisible by 16; else which of them do."""
    queries, past_keys, past_values, keys, values = tensors
    addresses = (queries.data_ptr() | past_keys.data_ptr() | past_values.data_ptr() | keys.data_ptr()
                 | values.data_ptr())  # fmt: skip
    return addresses % _ALIGNMENT == 0 or tuple(tensor.data_ptr() % _ALIGNMENT == 0 for tensor in tensors)


_launches: dict[Hashable, TileLaunch] = {}


def launch_for(queries: Tensor, values: Tensor) -> TileLaunch:
    """The launch for tensors of these sizes, the same one each time; see `TileLaunch`."""
    key = queries.shape, queries.dtype, queries.device, values.shape[1], values.shape[3]
    found = _launches.get(key)
    if found is None:
        if len(_launches) >= _MAX_LAUNCHES:
            _launches.clear()
        found = _launches[key] = TileLaunch(queries, values)
    return found


def attend_tiles(past: RaggedPast, tail: Tail, request: AttentionRequest) -> Tensor:
    """Attention of new queries to survivors and tail, prepared once and launched; see `TileLaunch.attend`."""
    return launch_for(request.queries, tail.values).attend(past, tail, request)


@cache
def num_processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; 1 for the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
