"""The two Triton kernels: attention of one tile, and the merger of a segment's tiles by log-sum-exp.

Exponents and logarithms are to the base 2, which is what the hardware has; the launcher scales the logits for it.

Where `MERGE` is set, one launch does both: the program that finishes a segment's last tile merges them all. Programs
count their tiles in the segment's counter after writing their parts. On a GPU this relies on the following order: a
barrier makes the writes of all threads of the program precede the increment; the increment releases them to the
device and acquires those of the programs that counted before; its result reaches the other threads through a barrier.
So whoever sees the last count sees all parts. They are read in the order of the tiles, whichever finished last, so
that the result does not depend on timing. The last program sets the counter back to zero for the next launch on the
stream, on which a replayed CUDA graph relies. Triton's interpreter runs programs one after another and shows none of
this.
"""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = bool(triton.knobs.runtime.interpret)


@triton.jit
def tanh(x):
    """Hyperbolic tangent in float32, relative error under 3e-7; a polynomial near zero, where 1 - e would cancel."""
    size = tl.abs(x)
    square = x * x
    series = tl.where(size < 0.6, square, 0.0)
    series = (((-0.00627584 * series + 0.02111578) * series - 0.05387502) * series + 0.13332923) * series - 0.3333333
    near = x + x * square * series
    decay = tl.exp2(-2.885390081777927 * size)
    far = (1.0 - decay) / (1.0 + decay)
    return tl.where(size < 0.6, near, tl.where(x < 0.0, -far, far))


@triton.jit
def merge_row(
    outputs,  # float32 [tiles, rows, VALUE_DIM]
    log_sums,  # float32 [tiles, rows]
    sinks,
    merged,
    segment,
    row,
    first,  # of the segment's tiles of the past
    num_past,  # tiles of the past
    tail_first,  # added to the number of a tile of the tail
    num_all,
    num_queries,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    HAS_SINKS: tl.constexpr,
):
    """One query row of one segment: its tiles' softmax averages, weighted by their denominators."""
    rows = GROUP * num_queries
    query_head = (segment % HEADS) * GROUP + row // num_queries
    value_dim = tl.arange(0, BLOCK_VALUE)
    largest = tl.full([], float("-inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    output = tl.zeros([BLOCK_VALUE], tl.float32)
    if HAS_SINKS:
        largest = tl.load(sinks + query_head).to(tl.float32) * 1.4426950408889634
        total = tl.full([], 1.0, tl.float32)
    for start in range(0, num_all, BLOCK_TILES):
        number = start + tl.arange(0, BLOCK_TILES)
        inside = number < num_all
        place = (number + tl.where(number < num_past, first, tail_first)) * rows + row
        log_sum = tl.load(log_sums + place, mask=inside, other=float("-inf"), cache_modifier=".cg")
        part = tl.load(
            outputs + place[:, None] * VALUE_DIM + value_dim[None, :],
            mask=inside[:, None] & (value_dim < VALUE_DIM)[None, :],
            other=0.0,
            cache_modifier=".cg",
        )
        new_largest = tl.maximum(largest, tl.max(log_sum, 0))
        reference = tl.where(new_largest == float("-inf"), 0.0, new_largest)  # -inf - -inf would be NaN
        weights = tl.exp2(log_sum - reference)
        decay = tl.exp2(largest - reference)
        total = total * decay + tl.sum(weights, 0)
        output = output * decay + tl.sum(part * weights[:, None], 0)
        largest = new_largest
    output = output / tl.where(total > 0.0, total, 1.0)
    token_row = (segment // HEADS) * num_queries + row % num_queries
    place = (token_row * (HEADS * GROUP) + query_head) * VALUE_DIM
    tl.store(merged + place + value_dim, output.to(merged.dtype.element_ty), mask=value_dim < VALUE_DIM)


@triton.jit
def count_tile(
    outputs,
    log_sums,
    sinks,
    merged,
    own,  # the segment's first tile and its counter, then the next segment's first tile
    segment,
    tail_first,  # the segment's first tile of the tail
    num_tail,  # tiles of the tail
    num_queries,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    HAS_SINKS: tl.constexpr,
):
    """Count a tile whose part is written; the last of a segment merges all."""
    first = tl.load(own)
    num_past = tl.load(own + 2) - first
    tl.debug_barrier()  # the parts of all threads before the count
    num_before = tl.atomic_add(own + 1, 1, sem="acq_rel", scope="gpu")
    if num_before == num_past + num_tail - 1:
        for row in range(GROUP * num_queries):
            merge_row(
                outputs, log_sums, sinks, merged, segment, row, first, num_past, tail_first - num_past,
                num_past + num_tail, num_queries, HEADS, GROUP, VALUE_DIM, BLOCK_VALUE, BLOCK_TILES, HAS_SINKS,
            )  # fmt: skip
        tl.store(own + 1, 0)


@triton.jit(
    do_not_specialize=[
        "tile_size",
        "num_past_tiles",
        "num_tail_tiles",
        "tail_length",
        "tail_capacity",
        "mask_batch_stride",
        "mask_token_stride",
        "past_mask_batch_stride",
        "past_mask_token_stride",
    ],
    do_not_specialize_on_alignment=[
        "tail_mask",
        "past_mask",
        "past_columns",
        "tail_start",
        "tail_reach",
        "schedule",
        "sinks",
    ],
)
def attend_tile(
    queries,  # [B, query_heads, q, HEAD_DIM]
    past_keys,  # [entries, HEAD_DIM]
    past_values,  # [entries, VALUE_DIM]
    tail_keys,  # [B * HEADS, tail_capacity, HEAD_DIM]
    tail_values,  # [B * HEADS, tail_capacity, VALUE_DIM]
    tail_mask,  # uint8 [B, 1, q, tail] where HAS_MASK
    past_mask,  # uint8 [B, 1, 1 or q, columns] where HAS_PAST_MASK
    past_columns,  # int32 [entries] where HAS_PAST_MASK: the column each entry came from
    tail_start,  # int64 [1] where ON_DEVICE: added to tail_length
    tail_reach,  # int64 [B, q] where HAS_REACH: columns of the tail behind which a query sees nothing
    schedule,  # int64: see `schedule.py`
    sinks,  # [query_heads] where HAS_SINKS
    merged,  # [B, q, query_heads, VALUE_DIM], behind it the parts
    parts_start,  # where the parts begin, in numbers of merged
    scaling,
    softcap,
    tile_size,
    num_past_tiles,
    num_tail_tiles,  # of a segment
    tail_length,
    tail_capacity,
    num_queries,
    query_batch_stride,
    query_head_stride,
    query_token_stride,
    mask_batch_stride,
    mask_token_stride,
    mask_column_stride,
    past_mask_batch_stride,
    past_mask_token_stride,
    past_mask_column_stride,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_ENTRIES: tl.constexpr,
    BLOCK_HEAD: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_PAST_MASK: tl.constexpr,
    HAS_REACH: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    ON_DEVICE: tl.constexpr,
    MERGE: tl.constexpr,
) -> None:
    """Attention of a block of query rows of one KV head (group-major, then query) to one tile of its entries."""
    tile = tl.program_id(0).to(tl.int64)
    num_tiles = tl.num_programs(0)
    length = tail_length.to(tl.int64)
    if ON_DEVICE:
        length += tl.load(tail_start)
    in_tail = tile >= num_past_tiles
    if in_tail:
        number = tile - num_past_tiles
        segment = number // num_tail_tiles
        first = (number % num_tail_tiles) * tile_size
        count = tl.minimum(length - first, tile_size)
        tail_row = segment * tail_capacity + first
        key_base = tail_keys + tail_row * HEAD_DIM
        value_base = tail_values + tail_row * VALUE_DIM
    else:
        segment = tl.load(schedule + tile)
        first = tl.load(schedule + num_past_tiles + tile)
        count = tl.load(schedule + 2 * num_past_tiles + tile)
        key_base = past_keys + first * HEAD_DIM
        value_base = past_values + first * VALUE_DIM
    if count <= 0:
        return

    batch, head = segment // HEADS, segment % HEADS
    rows = GROUP * num_queries
    row = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    in_rows = row < rows
    token = (row % num_queries).to(tl.int64)
    key_dim, value_dim = tl.arange(0, BLOCK_HEAD), tl.arange(0, BLOCK_VALUE)
    query_rows = (head * GROUP + row // num_queries) * query_head_stride + token * query_token_stride
    query = tl.load(
        queries + batch * query_batch_stride + query_rows[:, None] + key_dim[None, :],
        mask=in_rows[:, None] & (key_dim < HEAD_DIM)[None, :],
        other=0.0,
    )
    if HAS_REACH:
        reach = tl.load(tail_reach + batch * num_queries + token, mask=in_rows & in_tail, other=0)
        count = tl.where(in_tail, tl.minimum(count, tl.max(reach, 0) - first), count)

    largest = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    output = tl.zeros([BLOCK_ROWS, BLOCK_VALUE], tl.float32)
    for begin in range(0, count, BLOCK_ENTRIES):
        entry = begin + tl.arange(0, BLOCK_ENTRIES)
        inside = entry < count
        key = tl.load(
            key_base + entry[:, None] * HEAD_DIM + key_dim[None, :],
            mask=inside[:, None] & (key_dim < HEAD_DIM)[None, :],
            other=0.0,
        )
        value = tl.load(
            value_base + entry[:, None] * VALUE_DIM + value_dim[None, :],
            mask=inside[:, None] & (value_dim < VALUE_DIM)[None, :],
            other=0.0,
        )
        logits = tl.dot(query, tl.trans(key), input_precision="ieee") * scaling
        if HAS_SOFTCAP:
            logits = softcap * tanh(logits)
        visible = in_rows[:, None] & inside[None, :]
        if HAS_MASK:
            column = (first + entry) * mask_column_stride
            place = batch * mask_batch_stride + token[:, None] * mask_token_stride + column[None, :]
            seen = tl.load(tail_mask + place, mask=visible & in_tail, other=1)
            visible = visible & (seen != 0)
        if HAS_PAST_MASK:
            source = tl.load(past_columns + first + entry, mask=inside & (in_tail == 0), other=0).to(tl.int64)
            place = batch * past_mask_batch_stride + token[:, None] * past_mask_token_stride
            place += source[None, :] * past_mask_column_stride
            seen = tl.load(past_mask + place, mask=visible & (in_tail == 0), other=1)
            visible = visible & (seen != 0)
        logits = tl.where(visible, logits, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(logits, 1))
        reference = tl.where(new_largest == float("-inf"), 0.0, new_largest)  # -inf - -inf would be NaN
        weights = tl.exp2(logits - reference[:, None])
        decay = tl.exp2(largest - reference)
        total = total * decay + tl.sum(weights, 1)
        output = output * decay[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        largest = new_largest

    seen_any = total > 0.0
    total = tl.where(seen_any, total, 1.0)
    output = output / total[:, None]
    outputs = (merged + parts_start).to(tl.pointer_type(tl.float32), bitcast=True)
    log_sums = outputs + num_tiles.to(tl.int64) * rows * VALUE_DIM
    place = tile * rows + row
    tl.store(log_sums + place, largest + tl.log2(total), mask=in_rows)  # -inf where nothing was seen
    tl.store(
        outputs + place[:, None] * VALUE_DIM + value_dim[None, :],
        output,
        mask=in_rows[:, None] & (value_dim < VALUE_DIM)[None, :],
    )
    if MERGE:
        num_tail = (length + tile_size - 1) // tile_size
        own = schedule + 3 * num_past_tiles + 2 * segment
        tail_first = num_past_tiles + segment * num_tail_tiles
        count_tile(
            outputs, log_sums, sinks, merged, own, segment, tail_first, num_tail, num_queries, HEADS, GROUP, VALUE_DIM,
            BLOCK_VALUE, BLOCK_TILES, HAS_SINKS,
        )  # fmt: skip


@triton.jit(
    do_not_specialize=["tile_size", "num_past_tiles", "num_tail_tiles", "tail_length"],
    do_not_specialize_on_alignment=["tail_start", "schedule", "sinks"],
)
def merge_tiles(
    tail_start,  # int64 [1] where ON_DEVICE: added to tail_length
    schedule,  # int64: see `schedule.py`
    sinks,  # [query_heads] where HAS_SINKS
    merged,  # [B, q, query_heads, VALUE_DIM], behind it the parts
    parts_start,
    tile_size,
    num_past_tiles,
    num_tail_tiles,
    tail_length,
    num_queries,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    ON_DEVICE: tl.constexpr,
) -> None:
    """One query row of one segment, merged after all tiles are done."""
    rows = GROUP * num_queries
    segment, row = (tl.program_id(0) // rows).to(tl.int64), tl.program_id(0) % rows
    num_tiles = num_past_tiles + (tl.num_programs(0) // rows).to(tl.int64) * num_tail_tiles
    length = tail_length.to(tl.int64)
    if ON_DEVICE:
        length += tl.load(tail_start)
    own = schedule + 3 * num_past_tiles + 2 * segment
    first = tl.load(own)
    num_past = tl.load(own + 2) - first
    outputs = (merged + parts_start).to(tl.pointer_type(tl.float32), bitcast=True)
    merge_row(
        outputs, outputs + num_tiles * rows * VALUE_DIM, sinks, merged, segment, row, first, num_past,
        num_past_tiles + segment * num_tail_tiles - num_past, num_past + (length + tile_size - 1) // tile_size,
        num_queries, HEADS, GROUP, VALUE_DIM, BLOCK_VALUE, BLOCK_TILES, HAS_SINKS,
    )  # fmt: skip
