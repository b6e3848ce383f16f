"""The ragged store: a ragged past and a rectangular tail. Holds exactly what survived."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from lavakv.store.base import Counts, LayerStore
from lavakv.store.growing import GrowingKeyValues
from lavakv.store.past import RaggedPast


class RaggedStore(LayerStore):
    """One layer, compressed for real. See `layout.md`.

    Attributes:
        past: survivors of the prompt, once evicted.
        tail: window and all that came since, once evicted.
    """

    def __init__(self) -> None:
        self._whole: tuple[Tensor, Tensor] | None = None
        self._shape = (0, 0)
        self.past: RaggedPast | None = None
        self.tail: GrowingKeyValues | None = None

    @property
    @override
    def num_heads(self) -> int:
        return self._shape[1]

    @property
    @override
    def device(self) -> torch.device:
        if self._whole is not None:
            return self._whole[0].device
        assert self.tail is not None
        return self.tail.keys.device

    @override
    def hold(self, keys: Tensor, values: Tensor) -> None:
        self._whole = (keys.detach(), values.detach())
        self._shape = (keys.shape[0], keys.shape[1])

    @override
    def keep(self, ranked_columns: Sequence[Tensor], counts: Counts, window: int) -> None:
        assert self._whole is not None
        keys, values = self._whole
        ranked = [columns.to(keys.device) for columns in ranked_columns]
        kept = [ranked[b][h, :count] for b, row in enumerate(counts) for h, count in enumerate(row)]
        self.past = RaggedPast.gather(keys, values, kept)
        last = keys.shape[2] - window
        self.tail = GrowingKeyValues(
            *(t[:, :, last:].clone(memory_format=torch.contiguous_format) for t in self._whole)
        )
        self._whole = None

    @override
    def trim(self, counts: Counts) -> None:
        assert self.past is not None
        self.past = self.past.trimmed([count for row in counts for count in row])

    @override
    def append(self, keys: Tensor, values: Tensor) -> None:
        assert self.tail is not None
        self.tail.append(keys.detach(), values.detach())

    @override
    def reserve(self, num_columns: int) -> None:
        assert self.tail is not None
        self.tail.reserve(num_columns)

    @override
    def past_counts(self) -> list[list[int]]:
        assert self.past is not None
        lengths, heads = self.past.lengths(), self.num_heads
        return [lengths[b * heads : (b + 1) * heads] for b in range(self._shape[0])]

    @override
    def past_columns(self, sequence: int, head: int) -> Tensor:
        assert self.past is not None
        segment = sequence * self.num_heads + head
        rows = slice(self.past.offsets[segment], self.past.offsets[segment + 1])
        return self.past.columns[rows].long().sort().values

    @property
    @override
    def tail_length(self) -> int:
        return 0 if self.tail is None else self.tail.length

    @property
    @override
    def nbytes(self) -> int:
        whole = 0 if self._whole is None else sum(tensor.nbytes for tensor in self._whole)
        return whole + sum(part.nbytes for part in (self.past, self.tail) if part is not None)

    @override
    def bytes_by_sequence(self) -> list[int]:
        assert self.past is not None
        assert self.tail is not None
        tail = self.tail.nbytes // self._shape[0]
        return [sum(row) * self.past.entry_bytes + tail for row in self.past_counts()]
