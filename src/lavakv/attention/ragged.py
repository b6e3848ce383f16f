"""Attention over a ragged store: every head's survivors and the tail apart, merged by log-sum-exp."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.attention.cpu import MAX_ROWS, attend_blocks, attend_part_cpu_flash, cpu_flash_fits
from lavakv.attention.partial import Partial, attend_part, merge
from lavakv.attention.request import AttentionRequest
from lavakv.store.past import RaggedPast
from lavakv.store.ragged import RaggedStore


def attend_ragged(store: RaggedStore, request: AttentionRequest) -> Tensor:
    """Attend to a ragged store with PyTorch's operators.

    Returns:
        `[B, query_heads, q, value_dim]` in the queries' dtype.
    """
    assert store.past is not None
    assert store.tail is not None
    return attend_past_and_tail(store.past, store.tail.keys, store.tail.values, request)


def attend_past_and_tail(past: RaggedPast, tail_keys: Tensor, tail_values: Tensor, request: AttentionRequest) -> Tensor:
    """Attend to a ragged past and to a tail, `[B, H, tail, head_dim]` and `[B, H, tail, value_dim]`.

    Queries of one KV head are packed, so its entries are read once, never repeated.

    Returns:
        `[B, query_heads, q, value_dim]` in the queries' dtype.
    """
    queries = request.queries
    batch, query_heads, num_queries, head_dim = queries.shape
    heads = tail_keys.shape[1]
    packed = queries.reshape(batch, heads, -1, head_dim)  # rows: group-major, then query
    group = query_heads // heads
    mask = request.tail_mask
    if mask is not None:
        mask = mask[:, :, None].expand(batch, -1, group, -1, -1).reshape(batch, 1, group * num_queries, -1)
    rows = packed.shape[2]
    if rows <= MAX_ROWS and past.num_entries and _can_flash(request, packed, past.keys, past.values):
        blocks = None if request.past_mask is not None else past.blocks(batch)
        if blocks is not None:
            merged = attend_blocks(past, blocks, (tail_keys, tail_values), request, packed, mask)
            return merged.to(queries.dtype).reshape(batch, query_heads, num_queries, -1)
    parts = [_part(request, packed, tail_keys, tail_values, mask)]
    if past.num_entries:
        parts.append(_past(past, request, packed))
    sinks = request.settings.sinks
    if sinks is not None:
        sinks = sinks.view(1, heads, group, 1).expand(1, heads, group, num_queries).reshape(1, heads, -1)
    merged = merge(parts, sinks) if len(parts) > 1 or sinks is not None else parts[0].output
    return merged.to(queries.dtype).reshape(batch, query_heads, num_queries, -1)


def _past(past: RaggedPast, request: AttentionRequest, packed: Tensor) -> Partial:
    """Attention of all heads to their own survivors, `[B, H, rows, value_dim]`."""
    batch, heads, rows, _ = packed.shape
    if request.past_mask is not None:
        return _hidden_past(past, request, packed, request.past_mask)
    if past.rectangle is not None:
        keys, values = (part.view(batch, heads, *part.shape[1:]) for part in past.rectangle)
        return _part(request, packed, keys, values, None)
    nothing = Partial(
        packed.new_zeros(1, 1, rows, past.values.shape[1]),
        packed.new_full((1, 1, rows), float("-inf"), dtype=torch.promote_types(packed.dtype, torch.float32)),
    )
    flat = packed.reshape(batch * heads, 1, 1, rows, -1)
    parts = [
        _part(request, flat[i], keys[None, None], values[None, None], None) if keys.shape[0] else nothing
        for i, (keys, values) in enumerate(past.segments)
    ]
    output = torch.cat([part.output for part in parts], dim=1).view(batch, heads, rows, -1)
    return Partial(output, torch.cat([part.log_sum_exp for part in parts], dim=1).view(batch, heads, rows))


def _hidden_past(past: RaggedPast, request: AttentionRequest, packed: Tensor, mask: Tensor) -> Partial:
    """Attention of all heads to those of their own survivors that `mask`, bool `[B, 1, 1 or q, columns]`, shows."""
    batch, heads, rows, _ = packed.shape
    scaling, softcap, _ = request.settings
    parts = []
    for index, (keys, values) in enumerate(past.segments):
        sequence, head = divmod(index, heads)
        columns = past.columns[past.offsets[index] : past.offsets[index + 1]].long()
        seen = mask[sequence, 0].index_select(1, columns)  # [1 or q, entries]; rows are group-major, then query
        seen = seen.expand(rows, -1) if seen.shape[0] == 1 else seen.repeat(rows // seen.shape[0], 1)
        parts.append(attend_part(packed[sequence, head], keys, values, scaling, softcap, seen))
    output, log_sum_exp = (torch.stack(tensors).view(batch, heads, rows, -1) for tensors in zip(*parts, strict=True))
    return Partial(output, log_sum_exp.view(batch, heads, rows))


def _can_flash(request: AttentionRequest, packed: Tensor, keys: Tensor, values: Tensor) -> bool:
    return request.settings.softcap is None and cpu_flash_fits(packed, keys, values)


def _part(request: AttentionRequest, packed: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Partial:
    scaling, softcap, _ = request.settings
    if _can_flash(request, packed, keys, values):
        return attend_part_cpu_flash(packed, keys, values, scaling, mask)
    return attend_part(packed, keys, values, scaling, softcap, mask)
