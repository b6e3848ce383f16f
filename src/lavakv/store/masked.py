"""The masked store: every column stays, a rank says which are held. The oracle of the ragged store; saves nothing."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from lavakv.store.base import CandidateTable, Counts, HeldEntries, LayerStore, StoreSnapshot, check_truncation
from lavakv.store.growing import GrowingKeyValues
from lavakv.store.quantiser import Quantiser, check_quantisable

_NEVER = torch.iinfo(torch.int64).max


class MaskedStore(LayerStore):
    """Dense keys and values with a mask per head. See `layout.md`.

    Args:
        kv_bits: as in `QuantisedStore`: what a round keeps out of the tail is quantised and read again, in place.
    """

    def __init__(self, kv_bits: int | None = None) -> None:
        self.kv_bits = kv_bits
        self.dense: GrowingKeyValues | None = None
        self._ranks: Tensor | None = None
        self._counts: Tensor | None = None
        self._tail_start = 0

    @property
    @override
    def num_heads(self) -> int:
        return 0 if self.dense is None else self.dense.keys.shape[1]

    @property
    @override
    def device(self) -> torch.device:
        assert self.dense is not None
        return self.dense.keys.device

    @property
    @override
    def kind(self) -> tuple[Hashable, ...]:
        assert self.dense is not None
        keys, values = self.dense.buffers
        return type(self), keys.device, keys.dtype, values.dtype, keys.shape[1], keys.shape[3], values.shape[3]

    @property
    @override
    def num_columns(self) -> int:
        return 0 if self.dense is None else self.dense.length

    @property
    @override
    def tail_length(self) -> int:
        return self.num_columns - self._tail_start

    @override
    def hold(self, keys: Tensor, values: Tensor) -> None:
        if self.kv_bits is not None:
            check_quantisable(keys, values)
        self.dense = GrowingKeyValues(keys.detach().clone(), values.detach().clone())

    @override
    def candidates(self, sequence: int, due: Tensor, window: int) -> CandidateTable:
        assert self.dense is not None
        past = [] if self._ranks is None else [self.past_columns(sequence, head) for head in range(self.num_heads)]
        rows = [torch.cat([columns, due]) for columns in past] or [due] * self.num_heads
        caps = [len(row) for row in rows]
        columns = torch.full((self.num_heads, max(caps)), -1, dtype=torch.int64, device=self.device)
        parts = [part[sequence] for part in (self.dense.keys, self.dense.values)]
        tables = [part.new_zeros(self.num_heads, max(caps) + window, part.shape[2]) for part in parts]
        for head, row in enumerate(rows):
            columns[head, : len(row)] = row
            for table, part in zip(tables, parts, strict=True):
                table[head, : len(row)] = part[head, row]
                table[head, max(caps) :] = part[head, part.shape[1] - window :]
        return CandidateTable(tables[0], tables[1], columns, caps)

    @override
    def keep(self, ranked_columns: Sequence[Tensor], counts: Counts, window: int) -> None:
        assert self.dense is not None
        keys, tail_start = self.dense.keys, self._tail_start
        self._tail_start = keys.shape[2] - window
        self._ranks = torch.full((*keys.shape[:2], self._tail_start), _NEVER, device=keys.device)
        for sequence, (ranks, columns, row) in enumerate(zip(self._ranks, ranked_columns, counts, strict=True)):
            for head, count in enumerate(row):
                kept = columns[head, :count].to(keys.device)
                ranks[head, kept] = torch.arange(count, device=keys.device)
                if self.kv_bits is not None:
                    self._quantise(sequence, head, kept[kept >= tail_start])
        self.trim(counts)

    def _quantise(self, sequence: int, head: int, columns: Tensor) -> None:
        """Leave of some columns what `kv_bits` can hold."""
        assert self.dense is not None
        for part in (self.dense.keys, self.dense.values):
            own = part[sequence, head]
            own[columns] = self._as_held(own[columns])

    def _as_held(self, vectors: Tensor) -> Tensor:
        """What `kv_bits` can hold of `[entries, dim]`."""
        return vectors if self.kv_bits is None else Quantiser(self.kv_bits, vectors.shape[1]).quantised_once(vectors)

    @override
    def trim(self, counts: Counts) -> None:
        assert self._ranks is not None
        self._counts = torch.tensor(counts, device=self._ranks.device)

    @override
    def append(self, keys: Tensor, values: Tensor) -> None:
        assert self.dense is not None
        self.dense.append(keys.detach(), values.detach())

    @override
    def reserve(self, num_columns: int) -> None:
        assert self.dense is not None
        self.dense.reserve(num_columns)

    @override
    def truncate(self, num_columns: int) -> None:
        assert self.dense is not None
        check_truncation(num_columns, self.tail_length)
        self.dense.length -= num_columns

    @override
    def select(self, sequences: Sequence[int]) -> None:
        assert self.dense is not None
        assert self._ranks is not None
        assert self._counts is not None
        rows = torch.tensor(sequences, device=self.device)
        self.dense.select(sequences)
        self._ranks, self._counts = self._ranks.index_select(0, rows), self._counts.index_select(0, rows)

    @override
    def past_counts(self) -> list[list[int]]:
        counts: list[list[int]] = self.held().sum(dim=2).tolist()
        return counts

    @override
    def past_columns(self, sequence: int, head: int) -> Tensor:
        return self.held()[sequence, head].nonzero().flatten()

    def held(self) -> Tensor:
        """Which columns before the tail each head holds, bool `[B, H, columns]`."""
        assert self._ranks is not None
        assert self._counts is not None
        return self._ranks < self._counts[:, :, None]

    @override
    def read(self, sequence: int, head: int) -> HeldEntries:
        assert self.dense is not None
        tail = torch.arange(self._tail_start, self.num_columns, device=self.device)
        columns = torch.cat([self.past_columns(sequence, head), tail])
        return HeldEntries(
            self.dense.keys[sequence, head, columns], self.dense.values[sequence, head, columns], columns
        )

    @override
    def snapshot(self) -> StoreSnapshot:
        assert self.dense is not None
        assert self._ranks is not None
        by_rank = self._ranks.masked_fill(~self.held(), _NEVER).argsort(dim=2, stable=True)
        counts = self.past_counts()
        places = [(b, h, by_rank[b, h, :count]) for b, row in enumerate(counts) for h, count in enumerate(row)]
        past = [torch.cat([part[b, h, own] for b, h, own in places]) for part in (self.dense.keys, self.dense.values)]
        tail = [part[:, :, self._tail_start :].clone() for part in (self.dense.keys, self.dense.values)]
        columns = torch.cat([own for _, _, own in places]).to(torch.int32)
        held = torch.tensor(counts, dtype=torch.int64, device="cpu")
        if self.kv_bits is not None:  # the same rows as when they were quantised
            past = [Quantiser(self.kv_bits, part.shape[1]).quantise(part) for part in past]
        return StoreSnapshot(past[0], past[1], columns, held, tail[0], tail[1], self.num_columns, self.kv_bits)

    @override
    def restore(self, snapshot: StoreSnapshot) -> None:
        snapshot.check_bits(self.kv_bits)
        (batch, heads), device = snapshot.past_counts.shape, snapshot.tail_keys.device
        self._tail_start = snapshot.num_columns - snapshot.tail_keys.shape[2]
        held = snapshot.past() if snapshot.kv_bits is not None else tuple(map(self._as_held, snapshot.past()))
        parts = tuple(zip(held, (snapshot.tail_keys, snapshot.tail_values), strict=True))
        dense = [tail.new_zeros(batch, heads, snapshot.num_columns, tail.shape[3]) for _, tail in parts]
        self._ranks = torch.full((batch, heads, self._tail_start), _NEVER, device=device)
        segments = torch.split(snapshot.past_columns.long(), snapshot.past_counts.flatten().tolist())
        start = 0
        for index, columns in enumerate(segments):
            place = divmod(index, heads)
            self._ranks[place][columns] = torch.arange(len(columns), device=device)
            for whole, (past, _) in zip(dense, parts, strict=True):
                whole[place][columns] = past[start : start + len(columns)]
            start += len(columns)
        for whole, (_, tail) in zip(dense, parts, strict=True):
            whole[:, :, self._tail_start :] = tail
        self.dense = GrowingKeyValues(dense[0], dense[1])
        self.trim(snapshot.past_counts.tolist())

    @property
    @override
    def entry_bytes(self) -> int:
        assert self.dense is not None
        return sum(part.shape[3] * part.itemsize for part in (self.dense.keys, self.dense.values))

    @property
    @override
    def nbytes(self) -> int:
        return 0 if self.dense is None else self.dense.nbytes

    @override
    def bytes_by_sequence(self) -> list[int]:
        assert self.dense is not None
        batch = self.dense.keys.shape[0]
        return [self.dense.nbytes // batch] * batch
