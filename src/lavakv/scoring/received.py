"""Attention summed over rows, from their logits: on a CPU by a C kernel that does not write out the softmax."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from lavakv.kernels import checked_once
from lavakv.native.build import Library, folder, library

_Shape = ctypes.c_int64 * 4


def add_causal(logits: Tensor, first: int, share: float, received: Tensor) -> bool:
    """Add what causal rows pay to each position by the C kernel; without one, do nothing.

    Args:
        logits: contiguous float32 `[G, rows, tokens]` on the CPU, not masked; overwritten.
        first: position of each group's first row.
        share: what each row pays in all.
        received: float32 `[tokens]`, contiguous, added to.

    Returns:
        Whether it was done.
    """
    found = kernel() if logits.device.type == "cpu" else None
    if found is not None:
        _add(found, logits, first, share, received)
    return found is not None


def _add(found: Library, logits: Tensor, first: int, share: float, received: Tensor) -> None:
    assert logits.is_contiguous()
    assert received.is_contiguous()
    assert logits.dtype == received.dtype == torch.float32
    group, rows, tokens = logits.shape
    workspace = torch.empty(group * rows, dtype=torch.float32, device="cpu")
    found.lavakv_add_received(
        _Shape(group * rows, rows, first, tokens), share, logits.data_ptr(), workspace.data_ptr(), received.data_ptr()
    )


def _is_right(found: Library) -> bool:
    """Whether it agrees with PyTorch on a small input; a wrong build would be far off."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    logits = torch.randn(3, 20, 300, generator=generator, dtype=torch.float32, device="cpu")
    hidden = torch.ones(20, 300, dtype=torch.bool, device="cpu").triu(281)
    expected = torch.softmax(logits.masked_fill(hidden, float("-inf")), dim=-1).sum(dim=(0, 1)) / 3
    received = torch.zeros(300, dtype=torch.float32, device="cpu")
    _add(found, logits, 280, 1 / 3, received)
    return bool(torch.isclose(received, expected, atol=1e-5).all())


kernel = checked_once(lambda: library(folder()), _is_right)  # None: PyTorch's operators do the work
