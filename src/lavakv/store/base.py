"""The interface of a layer's store. The ragged store saves memory; the masked one is trivially right."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.errors import InputError
from lavakv.store.quantiser import Quantiser

Counts = Sequence[Sequence[int]]


class CandidateTable(NamedTuple):
    """What one sequence may evict of a layer, and the window behind it. Heads with fewer candidates have empty places.

    Attributes:
        keys: `[H, n + w, head_dim]`: each head's candidates by column, empty places (zeros), then the window.
        values: `[H, n + w, value_dim]`, likewise.
        columns: int64 `[H, n]`, the column of each candidate; -1 in empty places.
        caps: candidates of each head, at most `n`.
    """

    keys: Tensor
    values: Tensor
    columns: Tensor
    caps: list[int]


class HeldEntries(NamedTuple):
    """All that one head of one sequence holds, by column.

    Attributes:
        keys: `[entries, head_dim]`.
        values: `[entries, value_dim]`.
        columns: int64 `[entries]`, ascending; columns of the tail may be padding.
    """

    keys: Tensor
    values: Tensor
    columns: Tensor


class StoreSnapshot(NamedTuple):
    """What a layer holds, as plain tensors that later changes of the store leave alone.

    Attributes:
        past_keys: `[entries, head_dim]`, segments of sequence and head back to back, each in rank order; rows of bytes
            (uint8) as `Quantiser` makes them where `kv_bits` is given.
        past_values: `[entries, value_dim]`, likewise.
        past_columns: int32 `[entries]`.
        past_counts: int64 `[B, H]` on the CPU.
        tail_keys: `[B, H, tail, head_dim]`.
        tail_values: `[B, H, tail, value_dim]`.
        num_columns: columns seen, evicted ones and the tail included.
        kv_bits: bits of a number of the past, or None for the dtype of the tail.
    """

    past_keys: Tensor
    past_values: Tensor
    past_columns: Tensor
    past_counts: Tensor
    tail_keys: Tensor
    tail_values: Tensor
    num_columns: int
    kv_bits: int | None = None

    def past(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the past in the dtype of the tail."""
        if self.kv_bits is None:
            return self.past_keys, self.past_values
        pairs = ((self.past_keys, self.tail_keys), (self.past_values, self.tail_values))
        keys, values = (Quantiser(self.kv_bits, tail.shape[3]).dequantise(rows, tail.dtype) for rows, tail in pairs)
        return keys, values

    def check_bits(self, kv_bits: int | None) -> None:
        """Check that a store with these bits can hold it without quantising a number twice.

        Raises:
            InputError: it is in other bits.
        """
        if kv_bits is not None and self.kv_bits not in (None, kv_bits):
            raise InputError(
                "snapshot", expected=f"one in {kv_bits} bits or in full precision", got=f"one in {self.kv_bits} bits",
                fix="Restore it with the kv_bits it was made with, or without any.",
            )  # fmt: skip

    def of_sequences(self, sequences: Sequence[int]) -> StoreSnapshot:
        """What some of the sequences hold, in the order given."""
        heads = self.past_counts.shape[1]
        offsets = [0, *self.past_counts.flatten().cumsum(0).tolist()]
        spans = [slice(offsets[row * heads], offsets[(row + 1) * heads]) for row in sequences]
        past = [
            torch.cat([part[span] for span in spans]) for part in (self.past_keys, self.past_values, self.past_columns)
        ]
        rows = torch.tensor(sequences, device=self.tail_keys.device)
        tail = [part.index_select(0, rows) for part in (self.tail_keys, self.tail_values)]
        counts = self.past_counts[torch.tensor(sequences, device="cpu")]
        return StoreSnapshot(past[0], past[1], past[2], counts, tail[0], tail[1], self.num_columns, self.kv_bits)

    def before(self, num_columns: int) -> StoreSnapshot:
        """What is held of the first columns; `num_columns` of them, none of the tail."""
        kept = self.past_columns < num_columns
        segments = torch.split(kept, self.past_counts.flatten().tolist())
        counts = torch.tensor([int(segment.sum()) for segment in segments], dtype=torch.int64, device="cpu")
        past = [part[kept] for part in (self.past_keys, self.past_values, self.past_columns)]
        tail = [part[:, :, :0] for part in (self.tail_keys, self.tail_values)]
        counts = counts.view_as(self.past_counts)
        return StoreSnapshot(past[0], past[1], past[2], counts, tail[0], tail[1], num_columns, self.kv_bits)


class LayerStore(ABC):
    """Keys and values of one layer, all sequences of a batch. Words and axes: `layout.md`.

    Life: `hold` once, then any number of rounds. A round reads `candidates`, calls `keep` once and `trim` any number
    of times; between rounds `append` adds every forward's columns to the tail. Nothing here is differentiable: what is
    stored is detached.
    """

    @property
    @abstractmethod
    def num_heads(self) -> int:
        """KV heads of the layer; 0 before `hold`."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where keys and values are, from `hold` on."""

    @property
    @abstractmethod
    def kind(self) -> tuple[Hashable, ...]:
        """What is the same in all stores that one path through attention can serve, from `hold` on.

        The class, device, dtypes, KV heads, and last `head_dim` and `value_dim`.
        """

    @property
    @abstractmethod
    def num_columns(self) -> int:
        """Columns seen, evicted ones included."""

    @property
    @abstractmethod
    def tail_length(self) -> int:
        """Columns that every head holds: the window and all that came after it; before the first `keep` all."""

    @abstractmethod
    def hold(self, keys: Tensor, values: Tensor) -> None:
        """Take a prompt's `[B, H, columns, dim]` as the model made it, by reference."""

    @abstractmethod
    def candidates(self, sequence: int, due: Tensor, window: int) -> CandidateTable:
        """What a round may evict of one sequence: its past, and those columns of the tail that are due.

        Args:
            sequence: row of the batch.
            due: int64 `[columns]` on the store's device, ascending, columns of the tail before the window; those of
                padding are left out.
            window: columns at the end that all heads keep.
        """

    @abstractmethod
    def keep(self, ranked_columns: Sequence[Tensor], counts: Counts, window: int) -> None:
        """Evict: of each head its first `counts[b][h]` columns and the last `window` columns stay.

        Args:
            ranked_columns: for each sequence int64 `[H, n_b]`, best first, out of past and tail together, none of the
                last `window` columns. What stands behind a head's count is not read.
            counts: entries each head keeps before the window.
            window: columns at the end that all heads keep.
        """

    @abstractmethod
    def trim(self, counts: Counts) -> None:
        """Keep only the first `counts[b][h]` entries of each head's past, by rank; never more than it has."""

    @abstractmethod
    def append(self, keys: Tensor, values: Tensor) -> None:
        """Add `[B, H, q, dim]` behind the tail. Copies no entry but when the spare capacity is used up."""

    @abstractmethod
    def reserve(self, num_columns: int) -> None:
        """Allocate capacity for this many more columns at once, so that appending them moves nothing. After `keep`."""

    @abstractmethod
    def truncate(self, num_columns: int) -> None:
        """Drop the last columns of the tail, as if they had never come. After `keep`.

        Raises:
            InputError: a negative number, or more columns than the tail has.
        """

    def truncate_past(self, num_columns: int) -> None:
        """Drop the tail and the last columns of a past that has evicted none of them. After `keep`."""
        self.restore(self.snapshot().before(self.num_columns - num_columns))

    @abstractmethod
    def past_counts(self) -> list[list[int]]:
        """Entries held before the tail, `[B][H]`."""

    @abstractmethod
    def past_columns(self, sequence: int, head: int) -> Tensor:
        """Columns of one head's past, ascending, int64."""

    @abstractmethod
    def read(self, sequence: int, head: int) -> HeldEntries:
        """All that one head holds, past and tail. After `keep`."""

    @abstractmethod
    def snapshot(self) -> StoreSnapshot:
        """What the store holds, to be saved or restored elsewhere. After `keep`."""

    @abstractmethod
    def restore(self, snapshot: StoreSnapshot) -> None:
        """Hold what a snapshot of this or another kind of store holds, and nothing else."""

    def select(self, sequences: Sequence[int]) -> None:
        """Hold these sequences alone, in this order, any number of times each; frees the others. After `keep`."""
        self.restore(self.snapshot().of_sequences(sequences))

    @property
    @abstractmethod
    def entry_bytes(self) -> int:
        """Bytes of one entry's key and value, from `hold` on."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of keys and values allocated now, spare capacity included."""

    @abstractmethod
    def bytes_by_sequence(self) -> list[int]:
        """`nbytes` per sequence once the prompt is evicted: what each would take alone."""


def check_truncation(num_columns: int, tail_length: int) -> None:
    """Raise InputError where a tail of `tail_length` columns cannot lose `num_columns`."""
    if not 0 <= num_columns <= tail_length:
        raise InputError(
            "num_columns",
            expected=f"0 to {tail_length}, the columns of the tail",
            got=str(num_columns),
            fix="What lies before the tail is partly evicted and cannot be cut back to.",
        )
