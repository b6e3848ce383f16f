"""What a sequence keeps: flat positions and counts of every layer, where its scores are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Selection:
    """What a sequence keeps, window included. Unpacks into `positions, counts`.

    Attributes:
        flat_positions: of each layer int64 `[entries]`, on the device of its scores: kept positions, head after head,
            ascending in each head.
        counts: int64 `[layers, heads]` on the CPU, entries of each head; 0 for a head that a layer does not have.
    """

    flat_positions: tuple[Tensor, ...]
    counts: Tensor

    @cached_property
    def positions(self) -> Tensor:
        """The same padded, on the CPU: int64 `[layers, heads, most]`, -1 behind each head's count; waits for them."""
        most = int(self.counts.max()) if self.counts.numel() else 0
        padded = torch.full((*self.counts.shape, most), -1, dtype=torch.int64, device="cpu")
        held = torch.arange(most, device="cpu") < self.counts[..., None]
        return padded.masked_scatter_(held, torch.cat([layer.cpu() for layer in self.flat_positions]))

    def __iter__(self) -> Iterator[Tensor]:
        yield self.positions
        yield self.counts

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        return (self.positions, self.counts)[index]

    @classmethod
    def of(cls, ranked: Sequence[Tensor], counts: Sequence[Sequence[int]], window: int) -> Selection:
        """Keep the first `counts[layer][h]` of each head's places by rank `[H, n]`, and the window behind them."""
        flat = tuple(kept_positions(layer, own, window) for layer, own in zip(ranked, counts, strict=True))
        widest = max(map(len, counts))
        entries = [[count + window for count in own] + [0] * (widest - len(own)) for own in counts]
        return cls(flat, torch.tensor(entries, dtype=torch.int64, device="cpu"))


def kept_positions(ranked: Tensor, counts: Sequence[int], window: int) -> Tensor:
    """Positions that a layer keeps, head after head, ascending in each head; reads nothing from the device.

    Args:
        ranked: int64 `[H, n]`, each head's places, best first (`Ranking.positions`).
        counts: how many of them each head keeps, at most `n`.
        window: places behind the `n`, all of them kept.

    Returns:
        int64 `[sum(counts) + H * window]`, where `ranked` is.
    """
    (num_heads, num_places), most = ranked.shape, max(counts, default=0)
    lengths = torch.tensor(counts, dtype=torch.int64, device="cpu").to(ranked.device, non_blocking=True)
    kept = torch.zeros(num_heads, num_places + window, dtype=torch.bool, device=ranked.device)
    kept[:, num_places:] = True
    kept.scatter_(1, ranked[:, :most], torch.arange(most, device=ranked.device) < lengths[:, None])
    return _true_places(kept, sum(counts) + num_heads * window) % kept.shape[1]


def _true_places(marks: Tensor, num_true: int) -> Tensor:
    """Flat places that hold True, ascending, int64 `[num_true]`; on a device their number must be known to not wait."""
    if marks.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(marks.numpy()))
    return torch.nonzero_static(marks.flatten(), size=num_true)[:, 0]
