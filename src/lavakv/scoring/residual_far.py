"""`residual` plus distant queries: rows of the whole prompt, each for the entries far before it.

Derivation and measurements: `docs/method.md`, "Rows far behind".
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.scoring.blocks import first_tokens
from lavakv.scoring.leave_one_out import grams, row_weights, squared_lengths, squared_shares, summed_distances
from lavakv.scoring.residual import residual_squares
from lavakv.scoring.window import ScoringWindow


class DistantQueries(NamedTuple):
    """Rows of the prompt that score besides the window's, and how much they count.

    Attributes:
        max_rows: rows at most, spread evenly.
        skipped: fraction of the evictable positions, from the start, without such rows.
        distance: a row counts only for entries more than this many positions before it.
        share: weight of their mean change, relative to the window's.
    """

    max_rows: int = 128
    skipped: float = 0.25
    distance: int = 128
    share: float = 0.1

    def positions(self, num_evictable: int) -> list[int]:
        """Positions of the rows, ascending; the last one is the last evictable position."""
        first = int(self.skipped * num_evictable)
        left = num_evictable - first
        count = min(self.max_rows, left)
        return [first + (index + 1) * left // count - 1 for index in range(count)]

    def places(self, num_evictable: int, device: torch.device) -> Tensor:
        """`positions` as int64, computed on the device: a copy from the host could synchronise."""
        first, count = int(self.skipped * num_evictable), len(self.positions(num_evictable))
        parts = torch.arange(1, count + 1, device=device) * (num_evictable - first)
        return first + torch.div(parts, count, rounding_mode="floor") - 1


DEFAULT = DistantQueries()
_ROWS_PER_BATCH = 32


def residual_far_score(window: ScoringWindow, rows: DistantQueries = DEFAULT) -> Tensor:
    """Expected change of the residual stream, from the window's rows and from distant ones; float32 `[H, n]`.

    Comparable across the heads of all layers. Needs what `residual_score` needs, and the prompt's queries. A round
    after the prompt has only the window's rows at hand (`caps` is given, `prompt` is not): it is `residual_score` then.
    """
    squares, later = residual_squares(window), window.prompt is None and window.caps is not None
    if later or not rows.positions(window.num_evictable):
        return squares.sqrt()
    scale = rows.share * row_weights(window).sum()  # as if their streams were the window's
    return squares.add_(_far_squares(window, rows).mul_(scale)).sqrt_()


def _far_squares(window: ScoringWindow, rows: DistantQueries) -> Tensor:
    """Squared change summed over query heads, averaged over the rows that are far enough behind, `[H, n]`.

    The mean is over an eighth of all rows at least: too few queries give an unreliable mean.
    """
    device, left = window.queries.device, window.num_evictable
    positions, places = rows.positions(left), rows.places(left, device)
    known = list(zip(grams(window), squared_lengths(window), strict=True))
    totals = torch.zeros(len(window.queries), left, dtype=torch.float32, device=device)
    for start in range(0, len(positions), _ROWS_PER_BATCH):
        some = slice(start, start + _ROWS_PER_BATCH)
        if positions[some][-1] > rows.distance:
            _add(totals, _QueryBatch.of(window, positions[some], places[some]), known, rows.distance)
    nearer = torch.arange(left, device=device) + rows.distance
    num_far = len(positions) - torch.searchsorted(places, nearer, right=True)
    return totals.div_(num_far.clamp(min=len(positions) / 8))


class _QueryBatch(NamedTuple):
    """Some rows of the prompt as a window of their own, which ends where the last of them sees nothing more."""

    window: ScoringWindow
    places: Tensor

    @classmethod
    def of(cls, window: ScoringWindow, positions: list[int], places: Tensor) -> _QueryBatch:
        """The rows at these positions, ascending; `places` holds the same on the window's device."""
        assert window.prompt is not None
        queries, visible, _ = window.prompt
        if visible is None:
            num_seen = positions[-1] + 1
            shown = torch.arange(num_seen, device=queries.device) <= places[:, None]
        else:
            num_seen = window.num_tokens
            shown = torch.cat([visible(position, position + 1) for position in positions])
        keys, values = first_tokens(window.keys, num_seen), first_tokens(window.values, num_seen)
        return cls(
            replace(
                window, queries=queries.index_select(2, places), keys=keys, values=values, visible=shown, caps=None
            ),
            places,
        )


def _add(totals: Tensor, batch: _QueryBatch, known: list[tuple[Tensor, Tensor]], distance: int) -> None:
    """Add the squared changes that some rows see, `[H, n]`; known are each head's Gram matrices and squared lengths."""
    window, places = batch
    heads, start = list(zip(_outputs(window), known, strict=True)), 0
    for attention, values in zip(window.blocks(), window.value_blocks(), strict=True):
        stop = min(start + attention.shape[-1], totals.shape[1])
        far = places[:, None] - torch.arange(start, stop, device=places.device) > distance
        paid, parts = attention[..., : stop - start], values[:, : stop - start].float()
        for head, ((outputs, (gram, lengths)), share, part) in enumerate(zip(heads, paid, parts, strict=True)):
            change = squared_shares(share).mul_(far)
            energy = summed_distances(change, outputs, gram, part, lengths[:, start:stop])
            totals[head, start:stop] += energy.sum(dim=0)
        start = stop


def _outputs(batch: ScoringWindow) -> list[Tensor]:
    """Attention outputs of the rows, a tensor `[G, rows, value_dim]` for each KV head."""
    totals: list[Tensor] = []
    for attention, values in zip(batch.blocks(), batch.value_blocks(), strict=True):
        block = [seen @ part.float() for seen, part in zip(attention, values, strict=True)]
        totals = [total.add_(part) for total, part in zip(totals, block, strict=True)] if totals else block
    return totals
