"""lavakv's own score, the whole prompt asked, too: what rows far behind an entry saw in it, later ones will see again.

Derivation and measurements: `docs/method.md`, "Rows far behind".
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.scoring.blocks import first_tokens
from lavakv.scoring.leaving_out import grams, row_weights, squared_lengths, squared_shares, summed_distances
from lavakv.scoring.residual import residual_squares
from lavakv.scoring.window import ScoringWindow


class FarRows(NamedTuple):
    """Which rows are asked besides the window's, and how much they count.

    Attributes:
        most: rows at most, spread evenly.
        skipped: part of the evictable positions, at their start, that has none.
        distance: only what lies more than so many positions back counts; what is nearer is read once and left behind.
        share: of the expected change, relative to the window's.
    """

    most: int = 128
    skipped: float = 0.25
    distance: int = 128
    share: float = 0.1

    def positions(self, num_evictable: int) -> list[int]:
        """Where they are, ascending; the last one is the last evictable position."""
        first = int(self.skipped * num_evictable)
        left = num_evictable - first
        count = min(self.most, left)
        return [first + (index + 1) * left // count - 1 for index in range(count)]

    def places(self, num_evictable: int, device: torch.device) -> Tensor:
        """The same, int64, worked out where they are needed: to send them there could mean to wait."""
        first, count = int(self.skipped * num_evictable), len(self.positions(num_evictable))
        parts = torch.arange(1, count + 1, device=device) * (num_evictable - first)
        return first + torch.div(parts, count, rounding_mode="floor") - 1


DEFAULT = FarRows()
_ROWS_TOGETHER = 32


def residual_far_score(window: ScoringWindow, rows: FarRows = DEFAULT) -> Tensor:
    """Expected change of the residual stream, from the window's rows and from far ones; float32 `[H, n]`.

    Comparable across the heads of all layers. Needs what `residual_score` needs, and the prompt's queries. A round
    after the prompt has only the window's rows at hand (`caps` is given, `prompt` is not): it is `residual_score` then.
    """
    squares, later = residual_squares(window), window.prompt is None and window.caps is not None
    if later or not rows.positions(window.num_evictable):
        return squares.sqrt()
    assert window.residual_norms is not None
    scale = rows.share * row_weights(window.residual_norms).sum()  # as if their streams were the window's
    return squares.add_(_far_squares(window, rows).mul_(scale)).sqrt_()


def _far_squares(window: ScoringWindow, rows: FarRows) -> Tensor:
    """Squared change summed over query heads, averaged over the rows that are far enough behind, `[H, n]`.

    Where those are few, their sum counts as that of an eighth of all rows: one row is no average.
    """
    device, left = window.queries.device, window.num_evictable
    positions, places = rows.positions(left), rows.places(left, device)
    known = list(zip(grams(window), squared_lengths(window), strict=True))
    totals = torch.zeros(len(window.queries), left, dtype=torch.float32, device=device)
    for start in range(0, len(positions), _ROWS_TOGETHER):
        some = slice(start, start + _ROWS_TOGETHER)
        if positions[some][-1] > rows.distance:
            _add(totals, _Asked.of(window, positions[some], places[some]), known, rows.distance)
    nearer = torch.arange(left, device=device) + rows.distance
    num_far = len(positions) - torch.searchsorted(places, nearer, right=True)
    return totals.div_(num_far.clamp(min=len(positions) / 8))


class _Asked(NamedTuple):
    """Some rows of the prompt as a window of their own, which ends where the last of them sees nothing more."""

    window: ScoringWindow
    places: Tensor

    @classmethod
    def of(cls, window: ScoringWindow, positions: list[int], places: Tensor) -> _Asked:
        """The rows at these positions, ascending; `places` holds the same on the window's device."""
        assert window.prompt is not None
        queries, visible = window.prompt
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


def _add(totals: Tensor, asked: _Asked, known: list[tuple[Tensor, Tensor]], distance: int) -> None:
    """Add the squared changes that some rows see, `[H, n]`; known are each head's Gram matrices and squared lengths."""
    window, places = asked
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


def _outputs(asked: ScoringWindow) -> list[Tensor]:
    """What the rows put out, a tensor `[G, rows, value_dim]` a KV head."""
    totals: list[Tensor] = []
    for attention, values in zip(asked.blocks(), asked.value_blocks(), strict=True):
        block = [seen @ part.float() for seen, part in zip(attention, values, strict=True)]
        totals = [total.add_(part) for total, part in zip(totals, block, strict=True)] if totals else block
    return totals
