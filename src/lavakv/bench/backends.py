"""Which of PyTorch's attention kernels may run while something is measured."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def without_cudnn(device: torch.device) -> AbstractContextManager[Any]:
    """On a CUDA device: the flash kernel first, cuDNN's never. Elsewhere nothing changes.

    cuDNN plans anew for every length of the keys. Every decode step has a new one, so a cache that grows by whole
    tensors would pay for plans instead of attention, and would look slower than it need be.
    """
    return sdpa_kernel(BACKENDS, set_priority=True) if device.type == "cuda" else nullcontext()


def backend_names(device: torch.device) -> list[str] | None:
    """What `without_cudnn` allows, first choice first; None where PyTorch is left alone."""
    return [backend.name.lower() for backend in BACKENDS] if device.type == "cuda" else None
