"""Why the Triton kernels cannot take a layer: what can be told before they are loaded."""

from __future__ import annotations

from functools import cache
from importlib import import_module

import torch
from torch import Tensor

MAX_DIM = 256
MIN_CAPABILITY = (8, 0)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


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
    return device_refusal(queries.device)


@cache
def device_refusal(device: torch.device) -> str | None:
    """The reason why the kernels cannot run on a device, or None if they can as far as one can tell beforehand."""
    if device.type == "cuda":
        if torch.version.hip is not None:
            return "this is a ROCm build of PyTorch, on which the kernels were never tried"
        capability = torch.cuda.get_device_capability(device)
        if capability < MIN_CAPABILITY:
            return (
                f"compute capability {capability[0]}.{capability[1]} is below {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]}"
            )
    try:
        interpreted = import_module("lavakv.attention.triton.kernel").INTERPRETED
    except Exception as error:  # a broken or foreign Triton raises anything
        return f"Triton cannot be loaded ({type(error).__name__}: {error})"
    return None if device.type == "cuda" or interpreted else f"tensors are on {device}"
