"""What a cache knows of every column it has seen: which token it was, and whether it was one or padding."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.hf.modes import storing


class Columns:
    """Real tokens, padding and what stood there, for all columns of a batch; grows by half.

    Attributes:
        length: columns seen.
        any_padding: is one of them padding? True also where nobody looked.
        brought_back: bool `[]` on a device, or None: did a mask show columns that no head ever held? Read it late.
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
            tokens: int64 `[B, q]`, what `continuation.tokens_of` makes of ids or embeddings.
        """
        may_look = host_readable(real.device) or self.length == 0  # later forwards do not wait for a device
        end = self.length + real.shape[1]
        self._real = _grown(self._real, self.length, end, real)
        self._tokens = _grown(self._tokens, self.length, end, tokens)
        self._real[:, self.length : end] = real
        self._tokens[:, self.length : end] = tokens
        self.length = end
        self.any_padding = self.any_padding or not (all_real or (may_look and bool(real.all())))

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
    """Can the host read tensors of this device without waiting for it?"""
    return device.type == "cpu"
