"""Reference implementation: dense attention under a mask per KV head, in float32; serves every kind of store."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.attention.request import AttentionRequest
from lavakv.store.base import LayerStore
from lavakv.store.masked import MaskedStore


def attend_dense(request: AttentionRequest, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """Softmax attention with float32 products, over exactly the visible entries.

    Args:
        request: queries and settings; its `tail_mask` is not read here.
        keys: `[B, H, columns, head_dim]`.
        values: `[B, H, columns, value_dim]`; hidden columns may hold anything, NaN included.
        visible: bool, broadcastable to `[B, H, q, columns]`.

    Returns:
        `[B, query_heads, q, value_dim]` in the queries' dtype.
    """
    queries, (scaling, softcap, sinks) = request.queries, request.settings
    batch, heads = keys.shape[:2]
    exact = torch.promote_types(queries.dtype, torch.float32)
    grouped = queries.to(exact).reshape(batch, heads, -1, *queries.shape[2:])
    logits = torch.einsum("bhgqd,bhkd->bhgqk", grouped, keys.to(exact)) * scaling
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    hidden = ~visible.broadcast_to(batch, heads, queries.shape[2], keys.shape[2])
    logits = logits.masked_fill(hidden[:, :, None], float("-inf"))
    if sinks is not None:
        column = sinks.to(exact).view(1, heads, -1, 1, 1).expand(*logits.shape[:4], 1)
        logits = torch.cat([logits, column], dim=-1)
    weights = torch.softmax(logits, dim=-1)[..., : keys.shape[2]]
    never_seen = hidden.all(dim=2)[..., None]  # 0 * NaN is NaN: clear what no query sees
    output = torch.einsum("bhgqk,bhkd->bhgqd", weights, values.to(exact).masked_fill(never_seen, 0.0))
    return output.flatten(1, 2).to(queries.dtype)


def attend_masked(store: MaskedStore, request: AttentionRequest) -> Tensor:
    """Attend to a masked store: entries its heads hold, and the tail under the request's mask."""
    assert store.dense is not None
    return _attend_held(request, store.dense.keys, store.dense.values, store.held())


def attend_read(store: LayerStore, request: AttentionRequest) -> Tensor:
    """Attend to a store of any kind by what each of its heads lets be read; slow, and right without knowing the kind.

    Returns:
        `[B, query_heads, q, value_dim]` in the queries' dtype.
    """
    batch, heads, columns = request.queries.shape[0], store.num_heads, store.num_columns
    held = torch.zeros(batch, heads, columns, dtype=torch.bool, device=store.device)
    rows = [[store.read(sequence, head) for head in range(heads)] for sequence in range(batch)]
    keys, values = (part.new_zeros(batch, heads, columns, part.shape[1]) for part in rows[0][0][:2])
    for sequence, own in enumerate(rows):
        for head, entries in enumerate(own):
            keys[sequence, head, entries.columns] = entries.keys
            values[sequence, head, entries.columns] = entries.values
            held[sequence, head, entries.columns] = True
    return _attend_held(request, keys, values, held[:, :, : columns - store.tail_length])


def _attend_held(request: AttentionRequest, keys: Tensor, values: Tensor, past: Tensor) -> Tensor:
    """Attention to the columns before the tail that `past`, bool `[B, H, columns]`, says are held, and to the tail."""
    num_queries, tail = request.queries.shape[2], keys.shape[2] - past.shape[2]
    seen_past = past[:, :, None].expand(-1, -1, num_queries, -1)
    if request.past_mask is not None:
        seen_past = seen_past & request.past_mask
    shape = (*past.shape[:2], num_queries, tail)
    if request.tail_mask is None:
        seen_tail = torch.ones(shape, dtype=torch.bool, device=past.device)
    else:
        seen_tail = request.tail_mask.expand(shape)
    return attend_dense(request, keys, values, torch.cat([seen_past, seen_tail], dim=-1))
