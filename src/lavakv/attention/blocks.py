"""Decoding on a CPU: one call of PyTorch's flash attention over all heads' survivors, one over the tail."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.attention.cpu_flash import attend_part_cpu_flash
from lavakv.attention.request import AttentionRequest
from lavakv.store.blocks import Blocks
from lavakv.store.ragged import RaggedStore

MOST_ROWS = 16  # packed queries of a KV head; each block works for all of its slots, which many rows make dear


def attend_blocks(
    store: RaggedStore, blocks: Blocks, request: AttentionRequest, packed: Tensor, mask: Tensor | None
) -> Tensor:
    """Attend to survivors block by block and to the tail, and merge all by log-sum-exp.

    Args:
        store: holds at least one survivor.
        blocks: those of its past.
        request: its scaling and sinks are used; a softcap cannot be.
        packed: `[B, H, rows, head_dim]`, group-major, then query.
        mask: bool `[B, 1, rows, tail]`, or None.

    Returns:
        `[B, H, rows, value_dim]`, float32 or wider.
    """
    assert store.past is not None
    assert store.tail is not None
    batch, heads, rows, head_dim = packed.shape
    scaling, _, sinks = request.settings
    tail = attend_part_cpu_flash(packed, store.tail.keys, store.tail.values, scaling, mask)
    queries = packed.reshape(batch * heads, rows, head_dim).index_select(0, blocks.sources)
    past = attend_part_cpu_flash(
        queries.view(blocks.num_blocks, 1, -1, head_dim),
        blocks.view(store.past.keys),
        blocks.view(store.past.values),
        scaling,
        _mask(blocks, rows),
    )
    found = past.output.reshape(-1, rows, packed.shape[3]).index_select(0, blocks.parts)
    weights = past.log_sum_exp.reshape(-1, rows).index_select(0, blocks.parts).view(batch * heads, -1, rows)
    denominators = [weights + blocks.absent, tail.log_sum_exp.reshape(batch * heads, 1, rows)]
    if sinks is not None:
        own = sinks.to(weights.dtype).view(1, heads, -1, 1)
        group = own.shape[2]
        denominators.append(own.expand(batch, heads, group, rows // group).reshape(batch * heads, 1, rows))
    shares = torch.softmax(torch.cat(denominators, dim=1), dim=1).unsqueeze(-1)
    outputs = torch.cat([found.view(*weights.shape, -1), tail.output.reshape(batch * heads, 1, rows, -1)], dim=1)
    return (outputs * shares[:, : outputs.shape[1]]).sum(dim=1).view(batch, heads, rows, -1)


def _mask(blocks: Blocks, rows: int) -> Tensor | None:
    """What to add to the logits of each block, `[num_blocks, 1, slots * rows, length]`; kept small between steps."""
    if blocks.mask is None:
        return None
    shape = (blocks.num_blocks, blocks.num_slots, rows, blocks.length)
    return blocks.mask.unsqueeze(2).expand(shape).reshape(blocks.num_blocks, 1, -1, blocks.length)
