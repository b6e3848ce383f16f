"""What a cache knows of every column it has seen: which token it was, and whether it was one or padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lavakv.store.growing import storing


class Columns:
    """Real tokens, padding and what stood there, for all columns of a batch; grows by half.

    Attributes:
        length: columns seen.
        any_padding: whether one of them is padding; true also where nobody looked.
        brought_back: bool `[]` on a device, or None: whether a mask showed what no head ever held. Read it late.
    """

    def __init__(self) -> None:
        self._real: Tensor | None = None
        self._tokens: Tensor | None = None
        self.length = 0
        self.any_padding = False
        self.brought_back: Tensor | None = None

    @storing()
    def append(self, real: Tensor, all_real: bool, tokens: Tensor) -> None:
        """Add the columns of one forward.

        Args:
            real: bool `[B, q]`.
            all_real: none is padding; saves looking.
            tokens: int64 `[B, q]`, what the engine tells tokens apart by: ids, or negative fingerprints of embeddings.
        """
        may_look = host_readable(real.device) or self.length == 0  # later forwards do not wait for a device
        end = self.length + real.shape[1]
        self._real = _grown(self._real, self.length, end, real)
        self._tokens = _grown(self._tokens, self.length, end, tokens)
        self._real[:, self.length : end] = real
        self._tokens[:, self.length : end] = tokens
        self.length = end
        self.any_padding = self.any_padding or not (all_real or (may_look and bool(real.all())))

    @property
    def buffers(self) -> tuple[Tensor, Tensor]:
        """`real` and `tokens` with the spare columns, `[B, capacity]`; what is in those is undefined."""
        assert self._real is not None
        assert self._tokens is not None
        return self._real, self._tokens

    @storing()
    def reserve(self, num_columns: int) -> None:
        """Allocate capacity for this many more columns: until they are used up, the buffers stay where they are."""
        real, tokens = self.buffers
        if self.length + num_columns > real.shape[1]:
            end = self.length + num_columns
            self._real, self._tokens = (_grown(part, self.length, end, part) for part in (real, tokens))

    def advance(self, num_columns: int, may_be_padding: bool) -> None:
        """Count columns that were written into the buffers."""
        assert self.length + num_columns <= self.buffers[0].shape[1]
        self.length += num_columns
        self.any_padding = self.any_padding or may_be_padding

    def note_brought_back(self, found: Tensor | None) -> None:
        """Remember for later that a mask may have shown columns that no head ever held, bool `[]`."""
        if found is not None:
            self.brought_back = found if self.brought_back is None else self.brought_back | found

    @property
    def real(self) -> Tensor:
        """Bool `[B, columns]`; False is padding."""
        assert self._real is not None
        return self._real[:, : self.length]

    @property
    def tokens(self) -> Tensor:
        """Int64 `[B, columns]`: token ids, negative where a column came as an embedding."""
        assert self._tokens is not None
        return self._tokens[:, : self.length]

    def truncate(self, num_columns: int) -> None:
        """Forget the last columns."""
        self.length -= num_columns

    def select(self, sequences: Sequence[int]) -> None:
        """Keep these sequences alone, in this order, any number of times each."""
        assert self._real is not None
        assert self._tokens is not None
        rows = torch.tensor(sequences, device=self._real.device)  # the spare columns go along: the next token fits
        self._real, self._tokens = self._real.index_select(0, rows), self._tokens.index_select(0, rows)

    def restore(self, real: Tensor, tokens: Tensor) -> None:
        """Hold what `real` and `tokens` of another one were, bool and int64 `[B, columns]`."""
        self._real, self._tokens, self.length = real.clone(), tokens.clone(), real.shape[1]
        self.any_padding = not bool(real.all())

    def tokens_and_padding(self) -> tuple[list[int], list[int]]:
        """Real tokens and left padding of each sequence; read from the device."""
        tokens: list[int] = self.real.sum(dim=1).tolist()
        padding: list[int] = self.real.long().cumsum(dim=1).eq(0).sum(dim=1).tolist()
        return tokens, padding

    def last_tokens(self, sequences: Sequence[int], most: int) -> int:
        """Columns at the end, `most` at most, that are tokens in all of these sequences; read from the device."""
        if not self.any_padding or not sequences:
            return most
        last = self.real[list(sequences), self.length - min(most, self.length) :].all(dim=0)
        return int(last.flip(0).long().cumprod(0).sum())

    def real_between(self, sequence: int, first: int, last: int) -> Tensor:
        """Columns of real tokens from `first` to before `last`, int64 on the columns' device."""
        columns = torch.arange(first, last, device=self.real.device)
        return columns[self.real[sequence, first:last]] if self.any_padding else columns

    def original_positions(self, sequence: int, columns: Tensor) -> Tensor:
        """Original token positions of columns of any shape; meaningless for padding and below 0."""
        counts = self.real[sequence].long().cumsum(0) - 1
        return counts.to(columns.device)[columns.clamp(min=0)]

    def positions(self, sequence: int, columns: Tensor) -> Tensor:
        """Original token positions of columns, padding left out; ascending if the columns are."""
        row = self.real[sequence]
        columns = columns.to(row.device)
        return (row.long().cumsum(0) - 1)[columns[row[columns]]]


def _grown(buffer: Tensor | None, length: int, end: int, like: Tensor) -> Tensor:
    if buffer is not None and end <= buffer.shape[1]:
        return buffer
    larger = torch.ones(like.shape[0], end + end // 2, dtype=like.dtype, device=like.device)
    if buffer is not None:
        larger[:, :length] = buffer[:, :length]
    return larger


def host_readable(device: torch.device) -> bool:
    """Whether the host can read tensors of this device without waiting for it."""
    return device.type == "cpu"
