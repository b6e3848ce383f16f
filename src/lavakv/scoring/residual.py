"""lavakv's own score: the change of the residual stream when one entry is left out, for seen and unseen queries.

Derivation and measurements: `docs/method.md`, "Beyond LAVa".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from lavakv.scoring.blocks import joined
from lavakv.scoring.leave_one_out import grams, row_weights, squared_lengths, squared_shares, summed_distances
from lavakv.scoring.window import ScoringWindow

DRIFT_GAIN = 2.0  # later queries drift further than the window's halves differ
SURPRISE_SHARE = 0.003  # part of a row's energy on entries only it attends to, expected on entries none attended to


class _Sums(NamedTuple):
    """Sums over the entries of one KV head; each adds up over blocks of positions.

    Attributes:
        outputs: attention times values, `[G, w, value_dim]`.
        mass: attention, `[G, w]`.
        flat: flattened attention, `[G, w]`.
        moved: evictable attention that moved from the window's first half to its second, twice, `[G]`.
        surprise: squared evictable attention beyond what the other rows pay to the same entry, `[G, w]`.
    """

    outputs: Tensor
    mass: Tensor
    flat: Tensor
    moved: Tensor
    surprise: Tensor


_Distances: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]  # arguments of `summed_distances` after the weights


def residual_score(window: ScoringWindow) -> Tensor:
    """Expected change of the residual stream when an entry alone is left out, relative to its norm; float32 `[H, n]`.

    Comparable across the heads of all layers. Needs the output projection and the norms of the residual stream, one of
    which at least is not zero: all is NaN otherwise.
    """
    return residual_squares(window).sqrt()


def residual_squares(window: ScoringWindow) -> Tensor:
    """`residual_score` before the root, float32 `[H, n]`."""
    weights, left = row_weights(window), squared_lengths(window)
    heads = list(zip(_sums(window), grams(window), _surprise_shares(window), strict=True))
    energies = []
    for seen, values in zip(window.evictable_blocks(), window.value_blocks(), strict=False):
        lengths, left = left[..., : seen.shape[-1]], left[..., seen.shape[-1] :]
        rows = zip(heads, seen, values[:, : seen.shape[-1]], lengths, strict=True)  # one by one: w rows of each entry
        found = [
            _energy(sums, part, weights, surprise_share, (sums.outputs, gram, value.float(), length))
            for (sums, gram, surprise_share), part, value, length in rows
        ]
        energies.append(torch.stack(found))
    return window.without_empty(joined(energies))


def _surprise_shares(window: ScoringWindow) -> Sequence[float | Tensor]:
    """Weight of each KV head's unseen energy: `SURPRISE_SHARE` divided by its number of entries."""
    if window.caps is None:
        return [SURPRISE_SHARE / window.num_tokens] * len(window.queries)
    return (SURPRISE_SHARE / (window.caps + window.queries.shape[2]).double()).float().unbind()


def _sums(window: ScoringWindow) -> list[_Sums]:
    """Sums of each KV head over all blocks."""
    left = window.num_evictable
    totals: list[_Sums] = []
    for attention, values in zip(window.blocks(), window.value_blocks(), strict=True):
        block = [_block_sums(seen, part.float(), left) for seen, part in zip(attention, values, strict=True)]
        totals = [_Sums(*map(torch.add, *pair)) for pair in zip(totals, block, strict=True)] if totals else block
        left = max(left - attention.shape[-1], 0)
    return totals


def _block_sums(attention: Tensor, values: Tensor, num_evictable: int) -> _Sums:
    """Sums of one head's attention `[G, w, tokens]` to values `[tokens, value_dim]`, the first of them evictable."""
    seen = attention[..., :num_evictable]
    return _Sums(attention @ values, attention.sum(dim=-1), _flat(attention).sum(dim=-1), _moved(seen), _surprise(seen))


def _energy(sums: _Sums, seen: Tensor, weights: Tensor, surprise_share: float | Tensor, about: _Distances) -> Tensor:
    """Squared change summed over query heads, averaged over rows by weight, `[tokens]`."""
    change = squared_shares(_expected(sums, seen)).mul_(weights[:, None])
    known = summed_distances(change, *about).sum(dim=0)
    unseen = sums.surprise.mean(dim=-1) @ summed_distances(weights[:, None].expand(len(seen), -1, 1), *about)
    return known + surprise_share * unseen


def _expected(sums: _Sums, seen: Tensor) -> Tensor:
    """Expected attention of later queries: the window's, flattened as far as it drifts, `[G, w, tokens]`."""
    scale = sums.mass / sums.flat.clamp(min=torch.finfo(seen.dtype).tiny)  # a sink may take all of it
    drift = (DRIFT_GAIN * sums.moved / 2).clamp(max=1)
    return torch.lerp(seen, _flat(seen).mul_(scale[..., None]), drift[:, None, None])


def _flat(attention: Tensor) -> Tensor:
    """Attention to the power of 1/4, not normalised: that of a less certain row."""
    return attention.sqrt().sqrt_()


def _moved(seen: Tensor) -> Tensor:
    """Attention to these entries that differs between the window's halves, `[G]`; one row alone counts as moving."""
    half = seen.shape[1] // 2
    if half == 0:
        return seen.new_full(seen.shape[:1], 2.0)
    return (seen[:, :half].mean(dim=1) - seen[:, half:].mean(dim=1)).abs().sum(dim=-1)


def _surprise(seen: Tensor) -> Tensor:
    """Sum over entries of the squared attention beyond what the other rows pay to the same entry, `[G, w]`."""
    rows = seen.shape[1]
    others = (seen.sum(dim=1, keepdim=True) - seen) / max(rows - 1, 1)
    return (seen - others).clamp_(min=0).square_().sum(dim=-1)
