"""The two Triton kernels: softmax denominators of the window's rows, and the columns' means over rows.

Exponents and logarithms are to the base 2, which is what the hardware has; the launcher scales the logits for it.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

INTERPRETED = bool(triton.knobs.runtime.interpret)


@triton.jit
def masked_logits(query, key, token, column, num_rows, num_tokens, scaling) -> Any:
    """Logits of rows to keys, float32 `[rows, keys]`; a row sees itself and all before it."""
    logits = tl.dot(query, tl.trans(key), input_precision="ieee") * scaling
    seen = column[None, :] <= (num_tokens - num_rows + token)[:, None]
    return tl.where(seen & (column < num_tokens)[None, :], logits, float("-inf"))


@triton.jit
def load_queries(queries, head_stride, group_stride, token_stride, head, query, token, num_rows, dim, HEAD_DIM) -> Any:
    """The window's rows of one query head, `[BLOCK_ROWS, BLOCK_HEAD]`."""
    base = queries + head * head_stride + query * group_stride
    inside = (token < num_rows)[:, None] & (dim < HEAD_DIM)[None, :]
    return tl.load(base + token[:, None] * token_stride + dim[None, :], mask=inside, other=0.0)


@triton.jit
def load_keys(keys, head_stride, token_stride, head, column, num_tokens, dim, HEAD_DIM) -> Any:
    """Keys of one KV head, `[BLOCK_KEYS, BLOCK_HEAD]`."""
    inside = (column < num_tokens)[:, None] & (dim < HEAD_DIM)[None, :]
    place = column.to(tl.int64)[:, None] * token_stride + dim[None, :]
    return tl.load(keys + head * head_stride + place, mask=inside, other=0.0)


@triton.jit(do_not_specialize=["num_rows", "num_tokens", "split_tokens"])
def row_denominators(
    queries,  # [H, G, w, HEAD_DIM]
    keys,  # [H, N, HEAD_DIM]
    largests,  # float32 [splits, H, G, w]
    totals,  # float32 [splits, H, G, w]
    scaling,
    num_rows,
    num_tokens,
    split_tokens,
    query_head_stride,
    query_group_stride,
    query_token_stride,
    key_head_stride,
    key_token_stride,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_HEAD: tl.constexpr,
) -> None:
    """Largest logit of each row of one query head over one split of the keys, and the denominator in units of it."""
    split, head, query = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(0)
    token, dim = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_HEAD)
    rows = load_queries(
        queries, query_head_stride, query_group_stride, query_token_stride, head, query, token, num_rows, dim, HEAD_DIM
    )
    largest = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    first = split * split_tokens
    for begin in range(first, tl.minimum(first + split_tokens, num_tokens), BLOCK_KEYS):
        column = begin + tl.arange(0, BLOCK_KEYS)
        key = load_keys(keys, key_head_stride, key_token_stride, head, column, num_tokens, dim, HEAD_DIM)
        logits = masked_logits(rows, key, token, column, num_rows, num_tokens, scaling)
        new_largest = tl.maximum(largest, tl.max(logits, 1))
        reference = tl.where(new_largest == float("-inf"), 0.0, new_largest)  # -inf - -inf would be NaN
        total = total * tl.exp2(largest - reference) + tl.sum(tl.exp2(logits - reference[:, None]), 1)
        largest = new_largest
    place = ((split * HEADS + head) * GROUP + query) * num_rows + token
    tl.store(largests + place, largest, mask=token < num_rows)  # -inf and 0 where nothing was seen
    tl.store(totals + place, total, mask=token < num_rows)


@triton.jit(do_not_specialize=["num_rows", "num_tokens", "num_columns"])
def column_means(
    queries,  # [H, G, w, HEAD_DIM]
    keys,  # [H, N, HEAD_DIM]
    largests,  # float32 [H, G, w], over all keys
    totals,  # float32 [H, G, w], likewise
    means,  # float32 [H, G, num_columns]
    scaling,
    num_rows,
    num_tokens,
    num_columns,
    query_head_stride,
    query_group_stride,
    query_token_stride,
    key_head_stride,
    key_token_stride,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_HEAD: tl.constexpr,
) -> None:
    """Mean attention of the rows to one block of keys; the query heads of a group share the keys."""
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    token, dim = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_HEAD)
    column = block * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
    key = load_keys(keys, key_head_stride, key_token_stride, head, column, num_tokens, dim, HEAD_DIM)
    for query in range(GROUP):
        rows = load_queries(
            queries, query_head_stride, query_group_stride, query_token_stride, head, query, token, num_rows, dim,
            HEAD_DIM,
        )  # fmt: skip
        logits = masked_logits(rows, key, token, column, num_rows, num_tokens, scaling)
        row = (head * GROUP + query) * num_rows + token
        largest = tl.load(largests + row, mask=token < num_rows, other=0.0)
        total = tl.load(totals + row, mask=token < num_rows, other=1.0)
        shares = tl.exp2(logits - largest[:, None]) / total[:, None]
        shares = tl.where((token < num_rows)[:, None], shares, 0.0)
        place = (head * GROUP + query) * num_columns + column
        tl.store(means + place, tl.sum(shares, 0) / num_rows, mask=column < num_columns)
