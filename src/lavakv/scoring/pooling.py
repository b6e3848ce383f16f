"""Smoothing over neighbouring positions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
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


def average_pool_blocks(blocks: Iterable[Tensor], kernel_size: int) -> Iterator[Tensor]:
    """`average_pool` of consecutive blocks `[..., tokens]` taken as one, never joined; cut at other places than they.

    A position waits until its neighbours are known; of the done ones those stay that the next ones need.
    """
    reach, held, num_done = kernel_size // 2, None, 0  # the first `num_done` held ones are done
    for block in blocks:
        rows = block if held is None else torch.cat([held, block], dim=-1)
        stop = max(rows.shape[-1] - reach, num_done)
        yield average_pool(rows, kernel_size)[..., num_done:stop]
        first = max(stop - reach, 0)
        held, num_done = rows[..., first:].clone(), stop - first  # no view that keeps the block alive
    if held is not None:
        yield average_pool(held, kernel_size)[..., num_done:]
