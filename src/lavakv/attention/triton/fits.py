"""Why the Triton kernels cannot take a layer: what can be told before they are loaded."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.kernels import DTYPES, MAX_DIM, device_refusal

MODULE = "lavakv.attention.triton.kernel"


def refusal(queries: Tensor, keys: Tensor, values: Tensor) -> str | None:
    """The reason why the kernels cannot take these tensors, or None if they can.

    Args:
        queries: `[B, query_heads, q, head_dim]`.
        keys: `[..., head_dim]`.
        values: `[..., value_dim]`.
    """
    if queries.dtype not in DTYPES:
        return f"{queries.dtype} is neither float16, bfloat16 nor float32"
    if not queries.dtype == keys.dtype == values.dtype:
        return f"queries, keys and values are {queries.dtype}, {keys.dtype} and {values.dtype}"
    if max(keys.shape[-1], values.shape[-1]) > MAX_DIM:
        return f"head size {max(keys.shape[-1], values.shape[-1])} is over {MAX_DIM}"
    if torch.is_grad_enabled() and queries.requires_grad:
        return "gradients are wanted (use torch.no_grad or torch.inference_mode)"
    return device_refusal(queries.device, MODULE)
