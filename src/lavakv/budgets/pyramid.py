"""PyramidKV's budgets (arXiv 2406.02069): early layers get more, late ones less, in a straight line."""

from __future__ import annotations

from collections.abc import Sequence

STEEPNESS = 20


def pyramid_weights(mean_entries: int, candidates_per_head: int, num_heads: Sequence[int]) -> list[float]:
    """What the layers' totals are in proportion to: whole numbers, in units of `1 / (20 * (layers - 1))` entries.

    Args:
        mean_entries: mean entries a head keeps before the window, `m = b - w`.
        candidates_per_head: what the first layer holds for a head on average before the window, `n` in a prompt.
        num_heads: KV heads of each layer.
    """
    gaps = len(num_heads) - 1
    if gaps == 0:
        return [float(mean_entries * num_heads[0])]
    first, last = (2 * STEEPNESS - 1) * mean_entries, mean_entries
    if first > STEEPNESS * candidates_per_head:
        first, last = STEEPNESS * candidates_per_head, STEEPNESS * (2 * mean_entries - candidates_per_head)
    return [float((first * gaps - (first - last) * index) * heads) for index, heads in enumerate(num_heads)]
