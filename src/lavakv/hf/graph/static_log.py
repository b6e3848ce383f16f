"""The last queries of captured steps, in a ring on the device, for rounds and files that come later."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from lavakv.attention import AttentionSettings
from lavakv.store.growing import storing


class StaticLog:
    """Remembers what `QueryLog` remembers, without the host.

    Layers of equal shapes share one ring `[layers, B, ..., window, ...]`; column `c` stands at `c % window`.

    Args:
        window: columns to remember.
        needs_norms: whether norms of the residual stream are noted.
    """

    def __init__(self, window: int, needs_norms: bool) -> None:
        self._window, self._needs_norms = window, needs_norms
        self._queries: dict[int, Tensor] = {}
        self._norms: dict[int, Tensor] = {}
        self._rings: dict[Hashable, Tensor] = {}
        self.settings: dict[int, AttentionSettings] = {}

    def note(self, layer: int, queries: Tensor, settings: AttentionSettings, norms: Tensor | None) -> None:
        """Note a layer of the step under way: queries `[B, query_heads, 1, head_dim]`, norms `[B, 1]`."""
        self._queries[layer], self.settings[layer] = queries.detach(), settings
        if self._needs_norms and norms is not None:
            self._norms[layer] = norms

    def write(self, column: Tensor) -> None:
        """Write the step's notes at its column, int64 `[1]`."""
        if not self._window:
            return
        slot = column % self._window
        for kind, notes, dim in (("queries", self._queries, 3), ("norms", self._norms, 2)):
            for shape, layers in _by_shape(notes).items():
                own = torch.stack([notes[layer] for layer in layers])
                self._ring(kind, shape, own, dim).index_copy_(dim, slot, own)

    def _ring(self, kind: str, shape: Hashable, like: Tensor, dim: int) -> Tensor:
        if (kind, shape) not in self._rings:
            sizes = [*like.shape]
            sizes[dim] = self._window
            with storing():
                self._rings[kind, shape] = like.new_zeros(sizes)
        return self._rings[kind, shape]

    def last(self, end: int, count: int) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Queries and norms of the `count` columns before column `end`, by layer, as tensors of their own."""
        device = next(iter(self._rings.values())).device
        slots = torch.arange(end - count, end, device=device) % self._window
        found = [{}, {}]  # type: list[dict[int, Tensor]]
        for into, (kind, notes, dim) in zip(
            found, (("queries", self._queries, 3), ("norms", self._norms, 2)), strict=True
        ):
            for shape, layers in _by_shape(notes).items():
                parts = self._rings[kind, shape].index_select(dim, slots)
                into.update({layer: parts[row].clone() for row, layer in enumerate(layers)})
        return found[0], found[1]


def _by_shape(notes: dict[int, Tensor]) -> dict[Hashable, list[int]]:
    """Layers whose notes can stand in one tensor, in a fixed order."""
    groups: dict[Hashable, list[int]] = {}
    for layer, note in notes.items():
        groups.setdefault((note.shape, note.dtype), []).append(layer)
    return groups
