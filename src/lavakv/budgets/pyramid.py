"""PyramidKV's budgets (arXiv 2406.02069): early layers get more, late ones less, in a straight line."""

from __future__ import annotations

from collections.abc import Sequence

STEEPNESS = 20.0


def pyramid_weights(mean_entries: int, num_evictable: int, num_heads: Sequence[int]) -> list[float]:
    """Unrounded entries of each layer, all heads together.

    Args:
        mean_entries: mean entries a head keeps before the window, `m = b - w`.
        num_evictable: positions before the window, `n`.
        num_heads: KV heads of each layer.
    """
    layers = len(num_heads)
    last = mean_entries / STEEPNESS
    first = 2 * mean_entries - last
    if first > num_evictable:
        first, last = num_evictable, 2 * mean_entries - num_evictable
    if layers == 1:
        first = mean_entries
    step = (first - last) / max(layers - 1, 1)
    return [(first - step * index) * heads for index, heads in enumerate(num_heads)]
