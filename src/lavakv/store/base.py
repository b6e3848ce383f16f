"""The interface of a layer's store. The ragged store saves memory; the masked one is trivially right."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

Counts = Sequence[Sequence[int]]


class LayerStore(ABC):
    """Keys and values of one layer, all sequences of a batch. Words and axes: `layout.md`.

    Life: `hold` once, `keep` once, `trim` any number of times, then `append` for every forward. Nothing here is
    differentiable: what is stored is detached.
    """

    @property
    @abstractmethod
    def num_heads(self) -> int:
        """KV heads of the layer; 0 before `hold`."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where keys and values are, from `hold` on."""

    @abstractmethod
    def hold(self, keys: Tensor, values: Tensor) -> None:
        """Take a prompt's `[B, H, columns, dim]` as the model made it, by reference."""

    @abstractmethod
    def keep(self, ranked_columns: Sequence[Tensor], counts: Counts, window: int) -> None:
        """Evict: of each head its first `counts[b][h]` columns and the last `window` columns stay.

        Args:
            ranked_columns: for each sequence int64 `[H, n_b]`, best first, none of the last `window` columns.
            counts: entries each head keeps before the window.
            window: columns at the end that all heads keep.
        """

    @abstractmethod
    def trim(self, counts: Counts) -> None:
        """Keep only the first `counts[b][h]` entries of each head's past, by rank; never more than it has."""

    @abstractmethod
    def append(self, keys: Tensor, values: Tensor) -> None:
        """Add `[B, H, q, dim]` behind the tail. Copies no entry but when the spare room is used up."""

    @abstractmethod
    def reserve(self, num_columns: int) -> None:
        """Make room for so many more columns at once, so that appending them moves nothing. After `keep`."""

    @abstractmethod
    def past_counts(self) -> list[list[int]]:
        """Entries held before the tail, `[B][H]`."""

    @abstractmethod
    def past_columns(self, sequence: int, head: int) -> Tensor:
        """Columns of one head's past, ascending, int64."""

    @property
    @abstractmethod
    def tail_length(self) -> int:
        """Columns that every head holds: the window and all that came after it."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of keys and values allocated now, spare room included."""

    @abstractmethod
    def bytes_by_sequence(self) -> list[int]:
        """`nbytes` once the prompt is evicted, told apart by sequence: what each would take alone."""
