"""Masks as the kernels read them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class KernelMasks(NamedTuple):
    """Masks of tail and past, or any tensor in place of one that is not there.

    Attributes:
        tail: uint8 `[B or 1, 1, q, tail]`.
        past: uint8 `[B or 1, 1, 1 or q, columns]`.
        strides: over sequences, queries and columns, of the tail's mask and of the past's.
        kind: what tells apart the strides that Triton compiles different kernels for.
    """

    tail: Tensor
    past: Tensor
    strides: tuple[int, ...]
    kind: tuple[int, ...] = ()


NO_STRIDES = (0,) * 6


def kernel_masks(anything: Tensor, tail: Tensor | None, past: Tensor | None) -> KernelMasks:
    """Masks of a request, at least one of them there, as bytes with their strides."""
    strides = (*_strides(tail), *_strides(past))
    kind = tuple(
        (stride == 1) + 2 * (stride >> 31 != 0) + 4 * (stride % 16 == 0) for stride in (strides[2], strides[5])
    )
    kind += (strides[0] >> 31, strides[1] >> 31, strides[3] >> 31, strides[4] >> 31)
    return KernelMasks(_bytes(anything, tail), _bytes(anything, past), strides, kind)


def _bytes(anything: Tensor, mask: Tensor | None) -> Tensor:
    return anything if mask is None else mask.view(torch.uint8)


def _strides(mask: Tensor | None) -> tuple[int, int, int]:
    if mask is None:
        return 0, 0, 0
    sequence, _, query, column = mask.stride()
    return sequence if mask.shape[0] > 1 else 0, query if mask.shape[2] > 1 else 0, column


def tail_reach(mask: Tensor, batch: int) -> Tensor:
    """Columns behind which each query of a chunk sees nothing of the tail, int64 `[batch, q]`.

    Args:
        mask: bool `[batch or 1, 1, q, tail]`.
        batch: number of sequences.
    """
    last_first = mask[:, 0].view(torch.uint8).flip(-1)
    return (mask.shape[-1] - last_first.argmax(-1)).expand(batch, -1).contiguous()
