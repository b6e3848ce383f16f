"""Attention over pages, as engines keep them: every sequence is one KV head of one request, of its own length.

On a GPU a Triton kernel that splits long sequences among programs; elsewhere PyTorch, one sequence after the other.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lavakv.attention.triton.sizes import block_rows, launch_shape, max_rows, power_of_two
from lavakv.kernels import unsupported_reason

_MODULE = "lavakv.attention.triton.page_kernel"
MIN_SPLIT, MAX_SPLITS = 512, 64  # entries of a program in a decode step, and programs of a sequence


class PagedSequences(NamedTuple):
    """Sequences that attend, and where their entries are.

    Attributes:
        tables: int32 `[sequences / heads, most]`, blocks in order of the entries, with anything behind them. A row
            serves the heads of one request, in order, where a block has several.
        lengths: int32 `[sequences]`, entries of each, new ones included.
        starts: int32 `[sequences + 1]`, first new token of each, and the end of the last.
        most_new: new tokens of the sequence that has most.
    """

    tables: Tensor
    lengths: Tensor
    starts: Tensor
    most_new: int


def attend_to_pages(queries: Tensor, keys: Tensor, values: Tensor, sequences: PagedSequences, scaling: float) -> Tensor:
    """Causal attention of the new tokens of all sequences.

    Args:
        queries: `[tokens, G, head_dim]`, contiguous, in order of sequence and token.
        keys: all blocks, `[blocks, heads, N, head_dim]`; the last dimension contiguous.
        values: likewise, with the same strides.
        sequences: on the same device.
        scaling: factor on query-key products.

    Returns:
        `[tokens, G, head_dim]` in the queries' dtype.
    """
    assert keys.shape == values.shape
    assert keys.stride() == values.stride()
    assert keys.stride(-1) == 1
    if unsupported_reason(_MODULE, queries=queries, keys=keys, values=values) is None:
        return _launch(queries, keys, values, sequences, scaling)
    return attend_one_by_one(queries, keys, values, sequences, scaling)


def attend_one_by_one(
    queries: Tensor, keys: Tensor, values: Tensor, sequences: PagedSequences, scaling: float
) -> Tensor:
    """The same with PyTorch's attention, for one sequence after the other."""
    output, heads = torch.empty_like(queries), keys.shape[1]
    starts = sequences.starts.tolist()
    for sequence, length in enumerate(sequences.lengths.tolist()):
        table = sequences.tables[sequence // heads].long()[: -(-length // keys.shape[2])]
        key, value = (one[table, sequence % heads].flatten(0, 1)[:length] for one in (keys, values))
        new = slice(starts[sequence], starts[sequence + 1])
        num_new = new.stop - new.start
        seen = torch.ones(num_new, length, dtype=torch.bool, device=keys.device).tril(length - num_new)
        found = scaled_dot_product_attention(
            queries[new].transpose(0, 1), key[None], value[None], attn_mask=seen, scale=scaling
        )
        output[new] = found.transpose(0, 1)
    return output


def _launch(queries: Tensor, keys: Tensor, values: Tensor, sequences: PagedSequences, scaling: float) -> Tensor:
    from lavakv.attention.triton.page_kernel import attend_split

    tokens, group, head_dim = queries.shape
    _, heads, page, _ = keys.shape
    most = sequences.tables.shape[1]
    num_splits, split_size = split(most * page, sequences.most_new)
    rows = min(block_rows(group * sequences.most_new), max_rows(queries.element_size()))
    shape = launch_shape(head_dim, head_dim, queries.element_size(), rows)
    parts = queries.new_empty((tokens * group, num_splits, head_dim), dtype=torch.float32)
    log_sums = queries.new_empty((tokens * group, num_splits), dtype=torch.float32)
    attend_split[len(sequences.lengths), num_splits, -(-group * sequences.most_new // rows)](
        queries, keys, values, sequences.tables, sequences.lengths, sequences.starts, parts, log_sums,
        scaling / math.log(2), most, num_splits, split_size, *keys.stride()[:3],
        HEADS=heads, GROUP=group, HEAD_DIM=head_dim, PAGE=page, BLOCK_ROWS=rows, BLOCK_ENTRIES=shape.block_entries,
        BLOCK_HEAD=shape.block_head, num_warps=shape.num_warps, num_stages=shape.num_stages,
    )  # fmt: skip
    if num_splits > 1:
        weights = torch.softmax(log_sums * math.log(2), dim=-1)
        parts = torch.bmm(weights[:, None], parts)
    return parts.view(tokens, group, head_dim).to(queries.dtype)


def split(most_entries: int, most_new: int) -> tuple[int, int]:
    """How many programs share a sequence, and the entries of each.

    A decode step has few query rows and needs the programs; a chunk has programs enough, and parts of many rows.

    Args:
        most_entries: of a sequence.
        most_new: new tokens of a sequence.
    """
    if most_new > 1:
        return 1, most_entries
    size = max(MIN_SPLIT, power_of_two(-(-most_entries // MAX_SPLITS)))
    return -(-most_entries // size), size
