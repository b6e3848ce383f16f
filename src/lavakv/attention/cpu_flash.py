"""PyTorch's own CPU flash attention, called for the log-sum-exp that its public function does not return.

The operator is private, so everything works without it; it took a third of the time of matrix products (`docs/log.md`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.attention.partial import Partial

_OPERATOR = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_DTYPES = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})


def cpu_flash_fits(queries: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Can the operator take these tensors?"""
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
