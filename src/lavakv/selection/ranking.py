"""The total order of a layer's candidates: tier, then higher score, then lower head, then earlier position.

Sorted by what is fastest where they are (figures: docs/log.md).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lavakv.scoring.tiers import TieredScores

_EMPTY, _MINIMUM, _PINNED = -1, 2, 3
_INDEX_BITS = 29  # of an entry; 32 bits of score and two of tier go before them: 63, and the sign stays free
_MAX_PACKED = 1 << _INDEX_BITS
# From this size on PyTorch sorts int32 by digits where it has FBGEMM; below, and elsewhere, it compares pairs.
_MIN_RADIX = 1 << 15 if "fbgemm" in torch.backends.quantized.supported_engines else _MAX_PACKED


class Ranking(NamedTuple):
    """A layer's candidates, best first.

    Attributes:
        positions: int64 `[H, n]`, the places of each head by rank, pinned ones first; the first `caps[h]` of row `h`
            hold candidates.
        pooled_heads: int16 `[candidates]`, the head of each candidate when all heads compete, which pinned ones do not.
        pooled_scores: `[candidates]`, the score of each of these.
        pooled_tiers: int8 `[candidates]`, their tiers: 2 within the minimum of their head, 1 protected, 0 the others;
            None where all are 0.
    """

    positions: Tensor
    pooled_heads: Tensor
    pooled_scores: Tensor
    pooled_tiers: Tensor | None = None


def rank(
    score: Tensor | TieredScores,
    min_entries_per_head: int = 0,
    caps: Tensor | None = None,
    pinned: Tensor | None = None,
) -> Ranking:
    """Order the candidates of one layer of one sequence.

    Args:
        score: `[H, n]`, higher is kept longer; or such scores in two tiers. Empty places are not read.
        min_entries_per_head: entries that every head keeps before heads compete, as far as it has candidates.
        caps: int64 `[H]` on the CPU: the first `caps[h]` places of head `h` hold candidates; None where all do.
        pinned: int64 `[H, p]`, places of candidates that every head keeps whatever their scores; none of them is empty.
    """
    values, protected = score if isinstance(score, TieredScores) else (score, None)
    num_heads, num_places = values.shape
    num_candidates = values.numel() if caps is None else int(caps.sum())
    tiers = None if protected is None else protected.to(torch.int8)
    empty = None if num_candidates == values.numel() else _empty_places(values, caps)
    if empty is not None:
        values, tiers = values.masked_fill(empty, 0), _tiers(values, tiers).masked_fill(empty, _EMPTY)
    num_pinned = 0 if pinned is None else pinned.shape[1]
    if pinned is not None and num_pinned:
        tiers = _tiers(values, tiers).scatter(1, pinned, _PINNED)
    order = best_first_order(values, tiers)  # head-major indices, so ties go to the lower head
    numbers = torch.arange(num_heads, device=values.device)[:, None]
    head_of = numbers.to(torch.int16).expand(num_heads, num_places).flatten()
    heads = head_of.index_select(0, order)
    positions = order.index_select(0, grouped_order(heads)).view(num_heads, num_places) - numbers * num_places
    first = num_pinned * num_heads  # as many ranks as the pinned candidates take
    if min_entries_per_head:
        minimum = positions[:, num_pinned : num_pinned + min_entries_per_head]
        tiers = _tiers(values, tiers).scatter(1, minimum, _MINIMUM)
        tiers = tiers if empty is None else tiers.masked_fill(empty, _EMPTY)
        if protected is None:
            order = torch.cat([order[:first], _minimum_first(order[first:], tiers)])
        else:
            order = best_first_order(values, tiers)
        heads = head_of.index_select(0, order)
    order, heads = order[first:num_candidates], heads[first:num_candidates]
    has_tiers = tiers is not None and (protected is not None or min_entries_per_head > 0)
    pooled_tiers = _tiers(values, tiers).flatten().index_select(0, order) if has_tiers else None
    return Ranking(positions, heads, values.flatten().index_select(0, order), pooled_tiers)


def _tiers(values: Tensor, tiers: Tensor | None) -> Tensor:
    return torch.zeros(values.shape, dtype=torch.int8, device=values.device) if tiers is None else tiers


def _empty_places(values: Tensor, caps: Tensor | None) -> Tensor:
    """Bool `[H, n]`."""
    assert caps is not None
    places = torch.arange(values.shape[1], device=values.device)
    return places >= caps.to(values.device, non_blocking=True)[:, None]


def _minimum_first(order: Tensor, tiers: Tensor) -> Tensor:
    """An order by score with the minimum of each head moved to the front; what is moved stays in order."""
    return order.index_select(0, grouped_order((tiers.flatten().index_select(0, order) != _MINIMUM).to(torch.int8)))


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
