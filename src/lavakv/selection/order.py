"""Stable orders of a layer's entries, by the sort that is fastest where they are (figures: docs/log.md)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_INDEX_BITS = 29  # of an entry; 32 bits of score and two of tier go before them: 63, and the sign stays free
_MAX_PACKED = 1 << _INDEX_BITS
# From this size on PyTorch sorts int32 by digits where it has FBGEMM; below, and elsewhere, it compares pairs.
_MIN_RADIX = 1 << 15 if "fbgemm" in torch.backends.quantized.supported_engines else _MAX_PACKED


def best_first_order(values: Tensor, tiers: Tensor | None = None) -> Tensor:
    """Flat indices of all entries: higher tiers first, then higher values, then lower indices; int64 `[H * n]`.

    Args:
        values: `[H, n]`, no NaN.
        tiers: int8 `[H, n]`, -1 to 2; None where all are 0.
    """
    flat, flat_tiers = values.flatten(), None if tiers is None else tiers.flatten()
    if _is_packable(flat) and len(flat) < _MIN_RADIX:
        packed = _packed(flat, flat_tiers)
        packed.sort()
        return torch.from_numpy(packed & (_MAX_PACKED - 1))
    if _is_packable(flat):
        order = torch.from_numpy(~_whole_numbers(flat)).sort(stable=True).indices
    else:
        order = flat.sort(descending=True, stable=True).indices
    return order if flat_tiers is None else order[grouped_order(-flat_tiers[order])]


def best_entries(values: Tensor, tiers: Tensor | None, count: int) -> Tensor:
    """Mark the `count` entries that `best_first_order` puts first, bool `[entries]`; all if there are no more.

    Args:
        values: `[entries]`, no NaN.
        tiers: int8 `[entries]`, -1 to 2; None where all are 0.
        count: zero or more.
    """
    if count >= len(values):
        return torch.ones(len(values), dtype=torch.bool, device=values.device)
    if not _is_packable(values) or count == 0:
        marks = torch.zeros(len(values), dtype=torch.bool, device=values.device)
        return marks.index_fill_(0, best_first_order(values, tiers)[:count], True)
    packed = _packed(values, tiers)
    return torch.from_numpy(packed <= np.partition(packed, count - 1)[count - 1])  # no two are equal


def grouped_order(labels: Tensor) -> Tensor:
    """Stable ascending order of labels, int8 or int16 `[n]`; int64 `[n]`."""
    if labels.device.type != "cpu":
        return labels.sort(stable=True).indices
    return torch.from_numpy(np.argsort(labels.numpy(), kind="stable"))  # counts, for numbers this small


def _is_packable(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.dtype == torch.float32 and values.numel() < _MAX_PACKED


def _packed(values: Tensor, tiers: Tensor | None) -> NDArray[np.int64]:
    """Tier, value and index as one whole number an entry: plain numbers sort several times faster than pairs."""
    packed = (2**31 - 1 - _whole_numbers(values).astype(np.int64)) << _INDEX_BITS
    packed |= np.arange(len(packed))
    if tiers is not None:
        packed += (2 - tiers.numpy().astype(np.int64)) << (32 + _INDEX_BITS)
    return packed


def _whole_numbers(values: Tensor) -> NDArray[np.int32]:
    """Int32 in the order of the float32 values."""
    bits = (values.detach().numpy() + np.float32(0)).view(np.int32)  # -0.0 is no less than 0.0
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
