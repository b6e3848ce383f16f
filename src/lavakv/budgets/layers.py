"""How a sequence's entries are split over the layers, and what a prompt can hold at most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.budgets.divide import divide
from lavakv.budgets.heads import worst_case_spare
from lavakv.budgets.spec import BudgetSpec

SLACK = 1.25


def layer_budgets(total: int, weights: Tensor, caps: Sequence[int]) -> Tensor:
    """Split a sequence's evictable total over the layers known so far (method, step 6).

    Args:
        total: entries to keep before the window, over all heads and layers, `T`.
        weights: float64 `[layers]`, entropy or another layer weight.
        caps: candidates of each of these layers, over its heads.

    Returns:
        int64 `[layers]`, at most `caps` each; sums to `total` unless the layers cannot hold it.
    """
    return divide(min(total, sum(caps)), weights, torch.tensor(caps, device=weights.device))


class WorstCase(NamedTuple):
    """Entries (one token's key and value in one KV head of one layer) a prompt holds at most.

    Attributes:
        final: after the prefill, all layers together; exact.
        layer: after the prefill, the largest that any single layer can be.
        peak: at any moment of a prefill trimmed layer by layer, layers in full included.
    """

    final: int
    layer: int
    peak: int


def worst_case_entries(
    num_tokens: int, tokens_per_head: int, num_heads: Sequence[int], window: int, num_whole_layers: int = 1
) -> WorstCase:
    """Bound what a prompt of `num_tokens` will hold, whatever its text: a scheduler may rely on it.

    Args:
        num_tokens: prompt length `N`.
        tokens_per_head: the budget `b`.
        num_heads: KV heads of every compressed layer.
        window: window size `w`.
        num_whole_layers: layers held in full at a time; `LavaCache` holds one, and two on a CUDA device.

    Raises:
        BudgetError: a budget or window that `LavaCache` would refuse too.
    """
    BudgetSpec(budget=tokens_per_head, window=window).tokens_per_head([num_tokens], 0, 1)
    heads, widest = sum(num_heads), max(num_heads)
    if num_tokens <= tokens_per_head:
        return WorstCase(num_tokens * heads, num_tokens * widest, num_tokens * heads)
    total = (tokens_per_head - window) * heads
    windows = window * heads
    layer = min(total, (num_tokens - window) * widest) + window * widest
    spare = sum(worst_case_spare(h) for h in num_heads)
    held = min(int(SLACK * total) + spare, (num_tokens - window) * heads)
    return WorstCase(total + windows, layer, held + windows + num_whole_layers * num_tokens * widest)
