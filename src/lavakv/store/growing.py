"""A rectangle of keys and values that grows at its end without copying for every token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

MIN_SPARE = 32


@contextmanager
def storing() -> Iterator[None]:
    """The autograd mode in which stored tensors are made and changed: no graph, and no inference mode.

    What is allocated in inference mode could not be written to outside it.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield


class GrowingKeyValues:
    """Keys `[B, H, length, head_dim]` and values `[B, H, length, value_dim]` with spare columns behind them.

    Takes ownership of the two tensors it starts with; they may not be views of something larger.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._keys, self._values = keys, values
        self.length = keys.shape[2]

    @property
    def keys(self) -> Tensor:
        """View of the keys in use."""
        return self._keys[:, :, : self.length]

    @property
    def values(self) -> Tensor:
        """View of the values in use."""
        return self._values[:, :, : self.length]

    @property
    def buffers(self) -> tuple[Tensor, Tensor]:
        """Keys and values with the spare columns, `[B, H, capacity, dim]`; what is in those is undefined."""
        return self._keys, self._values

    @property
    def nbytes(self) -> int:
        """Bytes allocated, spare columns included."""
        return self._keys.nbytes + self._values.nbytes

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Write new columns behind the others; grows geometrically when they do not fit."""
        end = self.length + keys.shape[2]
        if end > self._keys.shape[2]:
            self._grow(max(end, self.length + max(self.length // 2, MIN_SPARE)))
        self._keys.narrow(2, self.length, keys.shape[2]).copy_(keys)
        self._values.narrow(2, self.length, keys.shape[2]).copy_(values)
        self.length = end

    def reserve(self, num_columns: int) -> None:
        """Allocate capacity for this many new columns: until they are used up, the buffers stay where they are."""
        if self.length + num_columns > self._keys.shape[2]:
            self._grow(self.length + num_columns)

    def select(self, sequences: Sequence[int]) -> None:
        """Hold these sequences alone, in this order, with as many spare columns as before.

        As many sequences as before stay in the buffers they are in, and those that keep their place are not copied.
        """
        if len(sequences) != self._keys.shape[0]:
            self._keys, self._values = self._selected(self._keys, sequences), self._selected(self._values, sequences)
            return
        moved = [place for place, sequence in enumerate(sequences) if place != sequence]
        if moved:
            places = torch.tensor(moved, device=self._keys.device)
            sources = torch.tensor([sequences[place] for place in moved], device=self._keys.device)
            for used in (self.keys, self.values):
                used.index_copy_(0, places, used.index_select(0, sources))

    def write_at(self, column: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write new columns from a column on that only the device knows, int64 `[1]`; `length` does not change.

        The caller must ensure that they fit; the host cannot check.
        """
        columns = column + torch.arange(keys.shape[2], device=column.device)
        self._keys.index_copy_(2, columns, keys)
        self._values.index_copy_(2, columns, values)

    def advance(self, num_columns: int) -> None:
        """Count columns that `write_at` has written."""
        assert self.length + num_columns <= self._keys.shape[2]
        self.length += num_columns

    def _selected(self, buffer: Tensor, sequences: Sequence[int]) -> Tensor:
        with storing():
            selected = buffer.new_empty(len(sequences), *buffer.shape[1:])
            sources = torch.tensor(sequences, device=buffer.device)
            selected[:, :, : self.length] = buffer[:, :, : self.length].index_select(0, sources)
        return selected

    def _grow(self, capacity: int) -> None:
        self._keys, self._values = self._grown(self._keys, capacity), self._grown(self._values, capacity)

    def _grown(self, buffer: Tensor, capacity: int) -> Tensor:
        with storing():
            larger = buffer.new_empty(*buffer.shape[:2], capacity, buffer.shape[3])
            larger[:, :, : self.length] = buffer[:, :, : self.length]
        return larger
