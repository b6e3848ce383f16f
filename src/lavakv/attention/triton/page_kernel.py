"""The Triton kernel of attention over pages: a sequence is one KV head of one request, with as many entries as it has.

Exponents and logarithms are to the base 2, as in `kernel.py`; the launcher scales the logits for it.
"""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = bool(triton.knobs.runtime.interpret)


@triton.jit(do_not_specialize=["most", "num_splits", "split_size"])
def attend_split(
    queries,  # [tokens, GROUP, HEAD_DIM]
    keys,  # [blocks, HEADS, PAGE, HEAD_DIM] with the strides given
    values,  # likewise, with the same strides
    tables,  # int32 [sequences / HEADS, most]
    lengths,  # int32 [sequences]
    starts,  # int32 [sequences + 1]
    parts,  # float32 [tokens * GROUP, splits, HEAD_DIM]
    log_sums,  # float32 [tokens * GROUP, splits]
    scaling,
    most,
    num_splits,
    split_size,
    block_stride,
    head_stride,
    entry_stride,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_ENTRIES: tl.constexpr,
    BLOCK_HEAD: tl.constexpr,
) -> None:
    """A block of query rows of one sequence (token, then query head) on one split of its entries."""
    sequence, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first_row = tl.program_id(2) * BLOCK_ROWS
    first_token = tl.load(starts + sequence)
    num_new = tl.load(starts + sequence + 1) - first_token
    if first_row >= num_new * GROUP:
        return
    row, dim = first_row + tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_HEAD)
    in_rows = row < num_new * GROUP
    num_before = tl.load(lengths + sequence) - num_new
    reach = num_before + row // GROUP + 1  # entries that a row sees: all before it, and its own
    last_token = tl.minimum(num_new - 1, (first_row + BLOCK_ROWS - 1) // GROUP)
    begin = split * split_size
    count = tl.minimum(split_size, num_before + last_token + 1 - begin)
    place = first_token.to(tl.int64) * GROUP + row
    query = tl.load(
        queries + place[:, None] * HEAD_DIM + dim[None, :],
        mask=in_rows[:, None] & (dim < HEAD_DIM)[None, :],
        other=0.0,
    )
    table, base = tables + (sequence // HEADS) * most, (sequence % HEADS) * head_stride
    largest = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    output = tl.zeros([BLOCK_ROWS, BLOCK_HEAD], tl.float32)
    for step in range(0, count, BLOCK_ENTRIES):
        number = step + tl.arange(0, BLOCK_ENTRIES)
        inside, entry = number < count, begin + number
        page = tl.load(table + entry // PAGE, mask=inside, other=0).to(tl.int64)
        at = (page * block_stride + base + (entry % PAGE) * entry_stride)[:, None] + dim[None, :]
        mask = inside[:, None] & (dim < HEAD_DIM)[None, :]
        key = tl.load(keys + at, mask=mask, other=0.0)
        value = tl.load(values + at, mask=mask, other=0.0)
        logits = tl.dot(query, tl.trans(key), input_precision="ieee") * scaling
        visible = inside[None, :] & (entry[None, :] < reach[:, None])
        logits = tl.where(visible, logits, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(logits, 1))
        reference = tl.where(new_largest == float("-inf"), 0.0, new_largest)  # -inf - -inf would be NaN
        weights = tl.exp2(logits - reference[:, None])
        decay = tl.exp2(largest - reference)
        total = total * decay + tl.sum(weights, 1)
        output = output * decay[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        largest = new_largest
    total = tl.where(total > 0.0, total, 1.0)
    place = place * num_splits + split
    tl.store(log_sums + place, largest + tl.log2(total), mask=in_rows)  # -inf where nothing was seen
    tl.store(
        parts + place[:, None] * HEAD_DIM + dim[None, :],
        output / total[:, None],
        mask=in_rows[:, None] & (dim < HEAD_DIM)[None, :],
    )
