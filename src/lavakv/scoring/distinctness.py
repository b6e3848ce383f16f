"""How unlike the other keys of a head each key is: what rare tokens, and so facts, have in common."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lavakv.scoring.blocks import joined
from lavakv.scoring.means import mean_by_head
from lavakv.scoring.window import ScoringWindow

STEPS = 1024  # of one, see `_relative`


def distinctness(window: ScoringWindow) -> Tensor:
    """`||K[i] - mean(K)||^2` over its mean over the head's candidates, float32 `[H, n]`; 1 where all keys are equal.

    `K` are keys before their rotation where that is known. What all keys of a head have in common moves all logits of a
    row alike and so, rotations aside, no attention.
    """
    distances = key_distances(window)[:, : window.num_evictable]
    return _relative(distances, mean_of_candidates(window, distances))


def key_distances(window: ScoringWindow) -> Tensor:
    """`||K[i] - mean(K)||^2` of every place, float32 `[H, N]`; 0 in empty ones, and where keys differ by rounding."""
    name = "key_distances" if window.rotation is None else "plain_key_distances"
    return window.remember(name, lambda: _key_distances(window))


def _key_distances(window: ScoringWindow) -> Tensor:
    once = list(_plain_keys(window)) if window.is_one_block else None
    centre = mean_by_head(window, once or _plain_keys(window))[:, None]
    distances = joined((block - centre).square_().sum(dim=-1) for block in once or _plain_keys(window))
    if window.empty is not None:
        distances[:, : window.num_evictable].masked_fill_(window.empty, 0.0)
    rounding = centre.square().sum(dim=-1) * torch.finfo(window.keys[0].dtype).eps ** 2
    return torch.where(distances.mean(dim=1, keepdim=True) <= rounding, 0.0, distances)


def _plain_keys(window: ScoringWindow) -> Iterator[Tensor]:
    """Keys before their rotation where it is known, cut like the attention, float32 `[H, tokens, head_dim]`."""
    first = 0
    for block in window.key_blocks():
        yield block.float() if window.rotation is None else window.rotation.undo(block, first)
        first += block.shape[1]


def _relative(distances: Tensor, mean: Tensor) -> Tensor:
    """Rounded, so that the same token at two positions counts the same, whatever its rotation rounded to."""
    return torch.where(mean > 0, (distances / mean * STEPS).round() / STEPS, 1.0)


def mean_of_candidates(window: ScoringWindow, numbers: Tensor) -> Tensor:
    """Mean over each head's candidates `[H, 1]` of numbers `[H, n]` that are zero in empty places."""
    counts = window.caps
    if counts is None:  # a tensor as well, so that a division rounds alike
        counts = torch.full(numbers.shape[:1], window.num_evictable, device=numbers.device)
    return numbers.sum(dim=1, keepdim=True) / counts.clamp(min=1)[:, None]


def row_distinctness(window: ScoringWindow) -> Tensor:
    """How distinct the token of each row is in one layer: `key_distances` over their mean, mean over heads, `[N]`."""
    distances = key_distances(window)
    return _relative(distances, distances.mean(dim=1, keepdim=True)).mean(dim=0)
