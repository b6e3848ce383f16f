"""The ragged store with its past in 8 or 4 bits. Window and tail stay as the model made them."""

from __future__ import annotations

from collections.abc import Hashable

from torch import Tensor
from typing_extensions import override

from lavakv.store.base import StoreSnapshot
from lavakv.store.past import Segments
from lavakv.store.quantiser import Quantiser, check_quantisable
from lavakv.store.ragged import RaggedStore


class QuantisedStore(RaggedStore):
    """One layer, compressed twice: fewer entries, and fewer bits in each. See `layout.md`.

    Each entry is quantised once, when it moves from the prompt or the tail into the past. Later rounds, `trim` and
    snapshots copy its row of bytes.

    Args:
        kv_bits: bits of a number of the past, 8 or 4.
    """

    def __init__(self, kv_bits: int) -> None:
        super().__init__()
        self.kv_bits = kv_bits

    @override
    def hold(self, keys: Tensor, values: Tensor) -> None:
        check_quantisable(keys, values)
        super().hold(keys, values)

    def dequantised(self) -> RaggedStore:
        """A ragged store for one forward: the past in the dtype of the tail, the tail itself."""
        assert self.past is not None
        view = RaggedStore()
        view.past = self.past.with_entries(*self._read(self.past.keys, self.past.values))
        view.tail, view._shape, view._num_columns = self.tail, self._shape, self._num_columns
        view._kind = (RaggedStore, *self._kind[1:])
        return view

    @override
    def snapshot(self) -> StoreSnapshot:
        return super().snapshot()._replace(kv_bits=self.kv_bits)

    @override
    def restore(self, snapshot: StoreSnapshot) -> None:
        snapshot.check_bits(self.kv_bits)
        check_quantisable(snapshot.tail_keys, snapshot.tail_values)
        super().restore(snapshot)

    @property
    @override
    def entry_bytes(self) -> int:
        return sum(Quantiser(self.kv_bits, part.shape[3]).row_bytes for part in self._tail())

    @override
    def _stored(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return self._quantise(keys), self._quantise(values)

    def _quantise(self, vectors: Tensor) -> Tensor:
        return Quantiser(self.kv_bits, vectors.shape[1]).quantise(vectors)

    @override
    def _restored(self, snapshot: StoreSnapshot) -> tuple[Tensor, Tensor]:
        held = snapshot.past_keys, snapshot.past_values
        return held if snapshot.kv_bits is not None else self._stored(*held)

    @override
    def _readable(self, first: int, last: int) -> Segments:
        found = super()._readable(first, last)
        keys, values = self._read(found.keys, found.values)
        return found._replace(keys=keys, values=values)

    def _read(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of rows of bytes."""
        pairs = zip((keys, values), self._tail(), strict=True)
        vectors, others = (Quantiser(self.kv_bits, tail.shape[3]).dequantise(rows, tail.dtype) for rows, tail in pairs)
        return vectors, others

    @override
    def _kind_of(self, keys: Tensor, values: Tensor) -> tuple[Hashable, ...]:
        device, *rest = super()._kind_of(keys, values)[1:]
        return type(self), device, self.kv_bits, *rest
