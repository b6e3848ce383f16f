"""Random lives of a store with several rounds: keep out of past and tail, append, trim, truncate, keep again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from torch import Tensor

from lavakv.store.base import LayerStore
from lavakv.store.masked import MaskedStore
from lavakv.store.ragged import RaggedStore
from tests.store.strategies import random_tensor


@dataclass
class Rounds:
    """Several rounds on stores of every kind, and a plain record of what each head must hold.

    Attributes:
        keys: `[B, H, columns, head_dim]`, every column that ever came and was not cut off again.
        values: `[B, H, columns, value_dim]`.
        past: `[B][H]`, columns that each head holds before the tail, in rank order.
        tail_start: columns before the tail.
        stores: the stores led so far.
    """

    draw: st.DrawFn
    generator: torch.Generator
    keys: Tensor
    values: Tensor
    past: list[list[list[int]]] = field(default_factory=list)
    tail_start: int = 0
    stores: tuple[LayerStore, ...] = ()

    @property
    def num_columns(self) -> int:
        return self.keys.shape[2]

    def due(self, sequence: int, window: int) -> list[int]:
        """Columns of the tail that a round may evict, some of them left out as padding."""
        columns = range(self.tail_start, self.num_columns - window)
        return [column for column in columns if (column * 7 + sequence) % 5]

    def round(self, window: int, trims: int) -> None:
        """Keep some candidates of each head in some order, then trim."""
        held = self.past or [[[] for _ in range(self.keys.shape[1])] for _ in range(self.keys.shape[0])]
        ranked: list[Tensor] = []
        kept: list[list[list[int]]] = []
        for sequence, heads in enumerate(held):
            choices = [sorted(columns) + self.due(sequence, window) for columns in heads]
            widest = max(map(len, choices))
            rows = []
            for choice in choices:
                order = torch.randperm(len(choice), generator=self.generator).tolist()
                rows.append([choice[i] for i in order] + [-1] * (widest - len(choice)))
            ranked.append(torch.tensor(rows, dtype=torch.int64).view(len(choices), widest))
            counts = [self.draw(st.integers(0, len(choice))) for choice in choices]
            kept.append([row[:count] for row, count in zip(rows, counts, strict=True)])
        self.past, self.tail_start = kept, self.num_columns - window
        for store in self.stores:
            store.keep(ranked, self.counts(), window)
        for _ in range(trims):
            self.past = [[row[: self.draw(st.integers(0, len(row)))] for row in heads] for heads in self.past]
            for store in self.stores:
                store.trim(self.counts())

    def append(self, num_columns: int) -> None:
        """One forward."""
        new = [random_tensor(self.generator, *part.shape[:2], num_columns, part.shape[3]) for part in self._parts()]
        self.keys, self.values = (torch.cat(pair, dim=2) for pair in zip(self._parts(), new, strict=True))
        for store in self.stores:
            store.append(*new)

    def truncate(self, num_columns: int) -> None:
        """Cut the end off again."""
        self.keys, self.values = (part[:, :, : self.num_columns - num_columns] for part in self._parts())
        for store in self.stores:
            store.truncate(num_columns)

    def counts(self) -> list[list[int]]:
        """Entries of each head's past."""
        return [[len(row) for row in heads] for heads in self.past]

    def _parts(self) -> tuple[Tensor, Tensor]:
        return self.keys, self.values


@st.composite
def rounds(
    draw: st.DrawFn,
    kinds: Sequence[Callable[[], LayerStore]] = (RaggedStore, MaskedStore),
    head_dims: Sequence[int] = (1, 4, 5),
    value_dim: int = 3,
) -> Rounds:
    """One to four rounds, windows of any size the tail has, forwards of one token and of many between them.

    Args:
        kinds: make the stores.
        head_dims: sizes of a key to draw from.
        value_dim: size of a value where it is not that of a key.
    """
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    batch, heads = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    columns, head_dim = draw(st.integers(1, 9)), draw(st.sampled_from(head_dims))
    value_dim = draw(st.sampled_from([head_dim, value_dim]))
    keys, values = (random_tensor(generator, batch, heads, columns, dim) for dim in (head_dim, value_dim))
    life = Rounds(draw, generator, keys, values, stores=tuple(kind() for kind in kinds))
    for store in life.stores:
        store.hold(keys, values)
    for number in range(draw(st.integers(1, 4))):
        if number:
            for new in draw(st.lists(st.sampled_from([1, 1, 2, 40]), max_size=3)):
                life.append(new)
            life.truncate(draw(st.integers(0, life.num_columns - life.tail_start)))
        life.round(draw(st.integers(0, life.num_columns - life.tail_start)), draw(st.integers(0, 2)))
    return life
