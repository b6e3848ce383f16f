"""The ragged store: a ragged past and a rectangular tail. Holds exactly what survived."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from lavakv.store.base import CandidateTable, Counts, HeldEntries, LayerStore, StoreSnapshot, check_truncation
from lavakv.store.growing import GrowingKeyValues
from lavakv.store.past import RaggedPast, Segments
from lavakv.store.table import candidate_table, gather_again


class RaggedStore(LayerStore):
    """One layer, compressed for real. See `layout.md`.

    Attributes:
        past: survivors of the prompt, once evicted.
        tail: window and all that came since, once evicted.
    """

    def __init__(self) -> None:
        self._whole: tuple[Tensor, Tensor] | None = None
        self._shape = (0, 0)
        self._num_columns = 0
        self._kind: tuple[Hashable, ...] = ()
        self._equal_pasts: tuple[RaggedPast, list[int]] | None = None
        self.past: RaggedPast | None = None
        self.tail: GrowingKeyValues | None = None

    @property
    @override
    def num_heads(self) -> int:
        return self._shape[1]

    @property
    @override
    def device(self) -> torch.device:
        return self._tail()[0].device

    @property
    @override
    def kind(self) -> tuple[Hashable, ...]:
        return self._kind

    @property
    @override
    def num_columns(self) -> int:
        return self._num_columns

    @property
    @override
    def tail_length(self) -> int:
        return 0 if self.tail is None else self.tail.length

    @override
    def hold(self, keys: Tensor, values: Tensor) -> None:
        self._whole = (keys.detach(), values.detach())
        self._shape = (keys.shape[0], keys.shape[1])
        self._num_columns = keys.shape[2]
        self._kind = self._kind_of(keys, values)

    @override
    def candidates(self, sequence: int, due: Tensor, window: int) -> CandidateTable:
        keys, values = (part[sequence] for part in self._tail())
        heads = self.num_heads
        segments = None if self.past is None else self._readable(sequence * heads, (sequence + 1) * heads)
        return candidate_table(segments, keys, values, due, self._num_columns, window)

    @override
    def keep(self, ranked_columns: Sequence[Tensor], counts: Counts, window: int) -> None:
        keys, values = self._tail()
        ranked = [columns.to(keys.device) for columns in ranked_columns]
        flat = torch.cat([ranked[b][h, :count] for b, row in enumerate(counts) for h, count in enumerate(row)])
        lengths = [count for row in counts for count in row]
        if self.past is None:
            self.past = RaggedPast.gather(keys, values, flat, lengths, self._stored)
        else:
            assert self.tail is not None
            tail_start = self._num_columns - self.tail.length
            self.past = gather_again(self.past, self.tail, flat, lengths, tail_start, self._stored)
        last = keys.shape[2] - window
        self.tail = GrowingKeyValues(
            *(part[:, :, last:].clone(memory_format=torch.contiguous_format) for part in (keys, values))
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
        self._num_columns += keys.shape[2]

    @override
    def reserve(self, num_columns: int) -> None:
        assert self.tail is not None
        self.tail.reserve(num_columns)

    @property
    def tail_capacity(self) -> int:
        """Columns that fit into the tail before its buffers move. After `keep`."""
        assert self.tail is not None
        return self.tail.buffers[0].shape[2]

    def advance(self, num_columns: int) -> None:
        """Count columns that a captured step has written behind the tail; see `GrowingKeyValues.write_at`."""
        assert self.tail is not None
        self.tail.advance(num_columns)
        self._num_columns += num_columns

    @override
    def truncate(self, num_columns: int) -> None:
        assert self.tail is not None
        check_truncation(num_columns, self.tail.length)
        self.tail.length -= num_columns
        self._num_columns -= num_columns

    @override
    def select(self, sequences: Sequence[int]) -> None:
        assert self.past is not None
        assert self.tail is not None
        labels = self._past_labels()
        selected = [labels[sequence] for sequence in sequences]
        if selected != labels:  # else every sequence comes to stand where an equal past is: beams of one prompt
            self.past = self.past.selected(sequences, self.num_heads)
        self._equal_pasts = (self.past, selected)
        self.tail.select(sequences)
        self._shape = (len(sequences), self.num_heads)

    def _past_labels(self) -> list[int]:
        """One number a sequence of the past that is held now; equal numbers hold bitwise the same entries."""
        if self._equal_pasts is not None and self._equal_pasts[0] is self.past:
            return self._equal_pasts[1]
        return list(range(self._shape[0]))

    @override
    def past_counts(self) -> list[list[int]]:
        assert self.past is not None
        lengths, heads = self.past.lengths(), self.num_heads
        return [lengths[b * heads : (b + 1) * heads] for b in range(self._shape[0])]

    @override
    def past_columns(self, sequence: int, head: int) -> Tensor:
        return self._segment_columns(sequence, head).sort().values

    @override
    def read(self, sequence: int, head: int) -> HeldEntries:
        assert self.tail is not None
        segment = sequence * self.num_heads + head
        keys, values, own_columns, _ = self._readable(segment, segment + 1)
        columns, order = own_columns.long().sort()
        tail = torch.arange(self._num_columns - self.tail.length, self._num_columns, device=columns.device)
        return HeldEntries(
            torch.cat([keys[order], self.tail.keys[sequence, head]]),
            torch.cat([values[order], self.tail.values[sequence, head]]),
            torch.cat([columns, tail]),
        )

    @override
    def snapshot(self) -> StoreSnapshot:
        assert self.past is not None
        assert self.tail is not None
        counts = torch.tensor(self.past_counts(), dtype=torch.int64, device="cpu")
        tail = self.tail.keys.clone(), self.tail.values.clone()  # the buffers go on being written to
        return StoreSnapshot(self.past.keys, self.past.values, self.past.columns, counts, *tail, self._num_columns)

    @override
    def restore(self, snapshot: StoreSnapshot) -> None:
        counts = snapshot.past_counts.flatten().tolist()
        self.past = RaggedPast(*self._restored(snapshot), snapshot.past_columns, counts)
        self.tail = GrowingKeyValues(
            *(part.clone(memory_format=torch.contiguous_format) for part in (snapshot.tail_keys, snapshot.tail_values))
        )
        self._whole, self._num_columns = None, snapshot.num_columns
        self._shape = (snapshot.past_counts.shape[0], snapshot.past_counts.shape[1])
        self._kind = self._kind_of(snapshot.tail_keys, snapshot.tail_values)

    @property
    @override
    def entry_bytes(self) -> int:
        return sum(part.shape[3] * part.itemsize for part in self._tail())

    @property
    @override
    def nbytes(self) -> int:
        whole = 0 if self._whole is None else sum(tensor.nbytes for tensor in self._whole)
        return whole + sum(part.nbytes for part in (self.past, self.tail) if part is not None)

    @override
    def bytes_by_sequence(self) -> list[int]:
        assert self.tail is not None
        tail = self.tail.nbytes // self._shape[0]
        return [sum(row) * self.entry_bytes + tail for row in self.past_counts()]

    def _stored(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """What the past keeps of keys `[entries, head_dim]` and values `[entries, value_dim]`."""
        return keys, values

    def _restored(self, snapshot: StoreSnapshot) -> tuple[Tensor, Tensor]:
        """What the past keeps of a snapshot's."""
        return snapshot.past()

    def _readable(self, first: int, last: int) -> Segments:
        """The segments `first` to `last` of the past in the dtype of the tail."""
        assert self.past is not None
        return self.past.sequence(first, last)

    def _tail(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the tail, `[B, H, columns, dim]`; of all columns before the first `keep`."""
        if self._whole is not None:
            return self._whole
        assert self.tail is not None
        return self.tail.keys, self.tail.values

    def _segment_columns(self, sequence: int, head: int) -> Tensor:
        """Columns of one head's past, in rank order, int64."""
        assert self.past is not None
        segment = sequence * self.num_heads + head
        return self.past.columns[self.past.offsets[segment] : self.past.offsets[segment + 1]].long()

    def _kind_of(self, keys: Tensor, values: Tensor) -> tuple[Hashable, ...]:
        return type(self), keys.device, keys.dtype, values.dtype, keys.shape[1], keys.shape[3], values.shape[3]
