"""Noise as a score: the floor that a method has to beat."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lavakv.scoring.window import ScoringWindow

_MULTIPLIERS = (0x7FEB352D, 0x846CA68B)
_MASK = 0xFFFFFFFF


def random_score(seed: int) -> Callable[[ScoringWindow], Tensor]:
    """A score that depends on seed, layer, head and original position only, so that a batch equals its rows alone.

    See `hashed_noise` for what these four make; the position counts from the sequence's first token.
    """

    def score(window: ScoringWindow) -> Tensor:
        device = window.queries.device
        heads = torch.arange(window.queries.shape[0], device=device)[:, None]
        return hashed_noise((seed, window.layer, heads, window.candidate_positions), device)

    return score


def hashed_noise(parts: Iterable[int | Tensor], device: torch.device) -> Tensor:
    """Numbers from 0 to 1 that depend on some whole numbers only, the same on every device; float32.

    From 0, `state = mix(31 state + part + 1)` in 32 bits for each part in turn; the number is the upper 24 bits over
    2**24. `mix` is lowbias32 (Chris Wellons, hash-prospector).

    Args:
        parts: of which the result has the broadcast shape.
        device: where to work it out.
    """
    state = torch.zeros((), dtype=torch.int64, device=device)
    for part in parts:
        state = _mixed((state * 31 + part + 1) & _MASK)
    return (state >> 8).float() / 2**24  # 24 bits: exact in float32


def _mixed(state: Tensor) -> Tensor:
    """A 32-bit mixing of shifts and multiplications, in int64."""
    for shift, multiplier in zip((16, 15), _MULTIPLIERS, strict=True):
        state = ((state ^ (state >> shift)) * multiplier) & _MASK
    return state ^ (state >> 16)
