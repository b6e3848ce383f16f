"""The noise of the policy `random`, by the rule that `lavakv/scoring/random.py` documents; written apart from it."""

from __future__ import annotations

import numpy as np

from tests.oracle.family_view import Ranking, View

SEED = 0


def noise(seed: int, layer: int, head: int, num_positions: int) -> np.ndarray:
    """From 0 up to 1 for each position."""
    return hashed(seed, layer, head, np.arange(num_positions))


def hashed(*parts: int | np.ndarray) -> np.ndarray:
    """From 0 up to 1 by some whole numbers; numpy's 32-bit numbers wrap around by themselves."""
    state = np.zeros(np.broadcast_shapes(*(np.shape(part) for part in parts)), dtype=np.uint32)
    for part in parts:
        state = state * np.uint32(31) + np.uint32(1) + np.asarray(part, dtype=np.uint32)
        state ^= state >> np.uint32(16)
        state *= np.uint32(0x7FEB352D)
        state ^= state >> np.uint32(15)
        state *= np.uint32(0x846CA68B)
        state ^= state >> np.uint32(16)
    return (state // np.uint32(256)).astype(np.float64) / 16_777_216


def random(view: View, keep: int) -> Ranking:
    return Ranking([noise(SEED, view.layer, head, view.num_evictable).tolist() for head in view.heads])
