"""Random splits and scores, the hostile ones included."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import strategies as st

# Weights below 1e-300 would make quotients subnormal, whose ties depend on rounding.
weights = st.one_of(
    st.just(0.0),
    st.sampled_from([1e-300, 1e-9, 1.0, 1.0, 1 / 3, 0.2, 1e300]),
    st.floats(1e-6, 1e6),
    st.integers(1, 9).map(float),
)


class Split(NamedTuple):
    """One question to `divide`."""

    total: int
    weights: list[float]
    caps: list[int]

    def tensors(self) -> tuple[int, torch.Tensor, torch.Tensor]:
        return self.total, torch.tensor(self.weights, dtype=torch.float64), torch.tensor(self.caps)


@st.composite
def splits(draw: st.DrawFn, max_parts: int = 9, max_cap: int = 14) -> Split:
    num_parts = draw(st.integers(1, max_parts))
    caps = draw(st.lists(st.one_of(st.just(0), st.integers(0, max_cap)), min_size=num_parts, max_size=num_parts))
    chosen = draw(st.lists(weights, min_size=num_parts, max_size=num_parts))
    total = draw(st.one_of(st.just(0), st.just(sum(caps)), st.integers(0, sum(caps))))
    return Split(total, chosen, caps)


@st.composite
def tied_scores(draw: st.DrawFn, max_heads: int = 6, max_evictable: int = 9) -> torch.Tensor:
    """Scores `[H, n]` of one layer, full of ties."""
    num_heads, num_evictable = draw(st.integers(1, max_heads)), draw(st.integers(1, max_evictable))
    row = st.lists(st.integers(0, 6), min_size=num_evictable, max_size=num_evictable)
    return torch.tensor(draw(st.lists(row, min_size=num_heads, max_size=num_heads)), dtype=torch.float32)
