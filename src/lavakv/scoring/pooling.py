"""Smoothing over neighbouring positions."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def max_pool(rows: Tensor, kernel_size: int) -> Tensor:
    """Largest of the `kernel_size` neighbours, fewer at the borders; `[..., n]` to the same shape."""
    if not rows.numel():
        return rows
    flat = rows.reshape(-1, 1, rows.shape[-1])
    return functional.max_pool1d(flat, kernel_size, stride=1, padding=kernel_size // 2).view(rows.shape)


def average_pool(rows: Tensor, kernel_size: int) -> Tensor:
    """Sum of the neighbours, zeros beyond the borders, divided by the kernel size; `[..., n]` to the same shape."""
    if not rows.numel():
        return rows
    flat = rows.reshape(-1, 1, rows.shape[-1])
    return functional.avg_pool1d(flat, kernel_size, stride=1, padding=kernel_size // 2).view(rows.shape)
