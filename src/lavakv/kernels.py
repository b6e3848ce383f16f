"""What Triton kernels of any stage need of a device."""

from __future__ import annotations

from functools import cache
from importlib import import_module

import torch

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MAX_DIM = 256
MIN_CAPABILITY = (8, 0)


@cache
def device_refusal(device: torch.device, module: str) -> str | None:
    """The reason why kernels cannot run on a device, or None if they can as far as one can tell beforehand.

    Args:
        device: of the tensors.
        module: the kernels' module; loading it loads Triton.
    """
    if device.type == "cuda":
        if torch.version.hip is not None:
            return "this is a ROCm build of PyTorch, on which the kernels were never tried"
        major, minor = torch.cuda.get_device_capability(device)
        if (major, minor) < MIN_CAPABILITY:
            return f"compute capability {major}.{minor} is below {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]}"
    try:
        interpreted = import_module(module).INTERPRETED
    except Exception as error:  # a broken or foreign Triton raises anything
        return f"Triton cannot be loaded ({type(error).__name__}: {error})"
    return None if device.type == "cuda" or interpreted else f"tensors are on {device}"
