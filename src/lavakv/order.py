"""Stable orders of a layer's entries, by the sort that is fastest where they are (figures: docs/log.md)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_INDEX_BITS = 29  # of an entry; 32 bits of score and two of tier go before them: 63, and the sign stays free


def best_first_order(values: Tensor, tiers: Tensor | None = None) -> Tensor:
    """Flat indices of all entries: higher tiers first, then higher values, then lower indices; int64 `[H * n]`.

    Args:
        values: `[H, n]`, no NaN.
        tiers: int8 `[H, n]`, -1 to 2; None where all are 0.
    """
    packable = values.device.type == "cpu" and values.dtype == torch.float32
    if packable and values.numel() < 1 << _INDEX_BITS:
        return _packed_order(values.flatten(), None if tiers is None else tiers.flatten())
    order = values.flatten().sort(descending=True, stable=True).indices
    return order if tiers is None else order[grouped_order(-tiers.flatten()[order])]


def grouped_order(labels: Tensor) -> Tensor:
    """Stable ascending order of labels, int8 or int16 `[n]`; int64 `[n]`."""
    if labels.device.type != "cpu":
        return labels.sort(stable=True).indices
    return torch.from_numpy(np.argsort(labels.numpy(), kind="stable"))  # counts, for numbers this small


def _packed_order(values: Tensor, tiers: Tensor | None) -> Tensor:
    """Tier, value and index as one whole number an entry: plain numbers sort several times faster than pairs."""
    bits = (values + 0.0).view(torch.int32)  # -0.0 is no less than 0.0
    ascending = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    packed = (2**31 - 1 - ascending) << _INDEX_BITS
    packed |= torch.arange(len(values), device=values.device)
    if tiers is not None:
        packed += (2 - tiers.long()) << (32 + _INDEX_BITS)
    packed.numpy().sort()
    return packed & ((1 << _INDEX_BITS) - 1)
