"""How much a prompt can hold at most, whatever its text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lavakv.budgets.spec import BudgetSpec

SLACK = 1.25  # of the total that a prefill may have allocated while layers are still to come


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


def worst_case_spare(num_heads: int) -> int:
    """Upper bound on what `retained_while_trimming` keeps beyond a layer's total."""
    return num_heads * math.ceil((num_heads + 1) / 2)
