"""The total order of a layer's candidates: tier, then higher score, then lower head, then earlier position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.scoring.tiers import TieredScores
from lavakv.selection.order import best_first_order, grouped_order

_EMPTY, _MINIMUM = -1, 2


class Ranking(NamedTuple):
    """A layer's candidates, best first.

    Attributes:
        positions: int64 `[H, n]`, the places of each head by rank; the first `caps[h]` of row `h` hold candidates.
        pooled_heads: int16 `[candidates]`, the head of each candidate when all heads compete.
        pooled_scores: `[candidates]`, the score of each of these.
        pooled_tiers: int8 `[candidates]`, their tiers: 2 within the minimum of their head, 1 protected, 0 the others;
            None where all are 0.
    """

    positions: Tensor
    pooled_heads: Tensor
    pooled_scores: Tensor
    pooled_tiers: Tensor | None = None


def rank(score: Tensor | TieredScores, min_entries_per_head: int = 0, caps: Tensor | None = None) -> Ranking:
    """Order the candidates of one layer of one sequence.

    Args:
        score: `[H, n]`, higher is kept longer; or such scores in two tiers. Empty places are not read.
        min_entries_per_head: entries that every head keeps before heads compete, as far as it has candidates.
        caps: int64 `[H]` on the CPU: the first `caps[h]` places of head `h` hold candidates; None where all do.
    """
    values, protected = score if isinstance(score, TieredScores) else (score, None)
    num_heads, num_places = values.shape
    num_candidates = values.numel() if caps is None else int(caps.sum())
    tiers = None if protected is None else protected.to(torch.int8)
    empty = None if num_candidates == values.numel() else _empty_places(values, caps)
    if empty is not None:
        values, tiers = values.masked_fill(empty, 0), _tiers(values, tiers).masked_fill(empty, _EMPTY)
    order = best_first_order(values, tiers)  # head-major indices, so ties go to the lower head
    numbers = torch.arange(num_heads, device=values.device)[:, None]
    head_of = numbers.to(torch.int16).expand(num_heads, num_places).flatten()
    heads = head_of.index_select(0, order)
    positions = order.index_select(0, grouped_order(heads)).view(num_heads, num_places) - numbers * num_places
    if min_entries_per_head:
        tiers = _tiers(values, tiers).scatter(1, positions[:, :min_entries_per_head], _MINIMUM)
        tiers = tiers if empty is None else tiers.masked_fill(empty, _EMPTY)
        order = _minimum_first(order, tiers) if protected is None else best_first_order(values, tiers)
        heads = head_of.index_select(0, order)
    order, heads = order[:num_candidates], heads[:num_candidates]
    has_tiers = tiers is not None and (protected is not None or min_entries_per_head > 0)
    pooled_tiers = _tiers(values, tiers).flatten().index_select(0, order) if has_tiers else None
    return Ranking(positions, heads, values.flatten().index_select(0, order), pooled_tiers)


def first_ranked(ranked: Tensor, counts: Sequence[int]) -> Tensor:
    """The first `counts[h]` of each row of `[H, n]`, back to back, `[sum(counts)]`; reads nothing from the device."""
    num_entries, device = sum(counts), ranked.device
    lengths = torch.tensor(counts, device="cpu").to(device, non_blocking=True)
    rows = torch.repeat_interleave(torch.arange(len(counts), device=device), lengths, output_size=num_entries)
    places = torch.arange(num_entries, device=device) - (lengths.cumsum(0) - lengths)[rows]
    return ranked[rows, places]


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
