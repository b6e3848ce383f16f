"""The attention kernels of PyTorch that may run during a measurement."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def without_cudnn(device: torch.device) -> AbstractContextManager[Any]:
    """Prefer the flash kernel and exclude cuDNN's on a CUDA device; no effect elsewhere.

    cuDNN makes a new plan for every length of the keys, that is in every decode step, so a cache that grows by
    concatenation would be measured with the cost of planning.
    """
    return sdpa_kernel(BACKENDS, set_priority=True) if device.type == "cuda" else nullcontext()


def backend_names(device: torch.device) -> list[str] | None:
    """The backends that `without_cudnn` allows, first choice first; None where PyTorch chooses."""
    return [backend.name.lower() for backend in BACKENDS] if device.type == "cuda" else None
