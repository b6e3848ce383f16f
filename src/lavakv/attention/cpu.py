"""Decoding on a CPU: one call of PyTorch's flash attention over a sequence's survivors, one over all tails.

The operator is called for the log-sum-exp that its public function does not return. It is private, so everything works
without it; it took a third of the time of matrix products (`docs/log.md`). A block may hold entries of several heads,
each under a mask; never of two sequences: what is not a number in one would show in the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.attention.partial import Partial
from lavakv.attention.request import AttentionRequest
from lavakv.store.blocks import Blocks
from lavakv.store.past import RaggedPast

_OPERATOR = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
MAX_ROWS = 16  # packed queries of a KV head; each block works for all of its slots, which is expensive for many rows
_DTYPES = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})


def cpu_flash_fits(queries: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Whether the operator can take these tensors."""
    return (
        _OPERATOR is not None
        and queries.device.type == "cpu"
        and queries.dtype in _DTYPES
        and queries.dtype == keys.dtype == values.dtype
        and keys.shape[-1] == values.shape[-1]
    )


def attend_part_cpu_flash(
    queries: Tensor, keys: Tensor, values: Tensor, scaling: float, mask: Tensor | None
) -> Partial:
    """Twin of `attend_part` without softcap; `mask` may also be what to add to the logits, in the queries' dtype.

    Shapes `[B, H, rows, dim]`, `[B, H, entries, dim]`, at least one entry.
    """
    assert _OPERATOR is not None
    additive = mask
    if mask is not None and mask.dtype == torch.bool:
        additive = torch.zeros(mask.shape, dtype=queries.dtype, device=mask.device).masked_fill_(~mask, float("-inf"))
    output, log_sum_exp = _OPERATOR(queries, keys, values, attn_mask=additive, scale=scaling)
    return Partial(output, log_sum_exp)


def attend_blocks(
    past: RaggedPast,
    blocks: list[Blocks | None],
    tail: tuple[Tensor, Tensor],
    request: AttentionRequest,
    packed: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """Attend to survivors block by block and to the tail, and merge all by log-sum-exp.

    Args:
        past: holds at least one survivor.
        blocks: those of each sequence, None where it holds no survivor.
        tail: keys `[B, H, tail, head_dim]` and values `[B, H, tail, value_dim]`.
        request: its scaling and sinks are used; a softcap and a mask of the past cannot be.
        packed: `[B, H, rows, head_dim]`, group-major, then query.
        mask: bool `[B, 1, rows, tail]`, or None.

    Returns:
        `[B, H, rows, value_dim]`, float32 or wider.
    """
    heads, rows = packed.shape[1:3]
    scaling, _, sinks = request.settings
    recent = attend_part_cpu_flash(packed, *tail, scaling, mask)
    extra = None
    if sinks is not None:
        own = sinks.to(recent.log_sum_exp.dtype).view(heads, -1, 1)
        extra = own.expand(heads, own.shape[1], rows // own.shape[1]).reshape(heads, 1, rows)
    merged = []
    for sequence, own_blocks in enumerate(blocks):
        outputs, weights = [recent.output[sequence][:, None]], [recent.log_sum_exp[sequence][:, None]]
        if own_blocks is not None:
            part = past.part(sequence * heads, (sequence + 1) * heads)
            found = _attend_past(own_blocks, *part, packed[sequence], scaling)
            outputs.append(found.output)
            weights.append(found.log_sum_exp)
        shares = torch.softmax(torch.cat(weights if extra is None else [*weights, extra], dim=1), dim=1).unsqueeze(-1)
        together = torch.cat(outputs, dim=1)
        merged.append((together * shares[:, : together.shape[1]]).sum(dim=1))
    return torch.stack(merged)


def _attend_past(blocks: Blocks, keys: Tensor, values: Tensor, packed: Tensor, scaling: float) -> Partial:
    """Attention of one sequence's heads `[H, rows, head_dim]` to its survivors, in parts `[H, most_parts, rows]`."""
    heads, rows, head_dim = packed.shape
    queries = packed.index_select(0, blocks.sources)
    found = attend_part_cpu_flash(
        queries.view(blocks.num_blocks, 1, -1, head_dim), blocks.view(keys), blocks.view(values), scaling,
        _mask(blocks, rows),
    )  # fmt: skip
    outputs = found.output.reshape(-1, rows, found.output.shape[-1]).index_select(0, blocks.parts)
    weights = found.log_sum_exp.reshape(-1, rows).index_select(0, blocks.parts).view(heads, -1, rows)
    return Partial(outputs.view(*weights.shape, -1), weights + blocks.absent)


def _mask(blocks: Blocks, rows: int) -> Tensor | None:
    """What to add to the logits of each block, `[num_blocks, 1, slots * rows, length]`; kept small between steps."""
    if blocks.mask is None:
        return None
    shape = (blocks.num_blocks, blocks.num_slots, rows, blocks.length)
    return blocks.mask.unsqueeze(2).expand(shape).reshape(blocks.num_blocks, 1, -1, blocks.length)
