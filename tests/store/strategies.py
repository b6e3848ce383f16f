"""Random lives of a layer's store, led by a ragged and a masked one alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from lavakv.store.base import LayerStore
from lavakv.store.ragged import RaggedStore


@dataclass
class Life:
    """What happens to a store, all tensors in dtypes and strides as models make them.

    Attributes:
        keys: `[B, H, columns, head_dim]`, the prompt.
        values: `[B, H, columns, value_dim]`.
        ranked: for each sequence columns by rank `[H, n_b]`.
        counts: first what `keep` keeps, then what each `trim` leaves, `[times][B][H]`.
        window: columns of the window.
        appended: keys and values of each later forward.
    """

    keys: Tensor
    values: Tensor
    ranked: list[Tensor]
    counts: list[list[list[int]]]
    window: int
    appended: list[tuple[Tensor, Tensor]]

    def lead(self, store: LayerStore) -> LayerStore:
        store.hold(self.keys, self.values)
        store.keep(self.ranked, self.counts[0], self.window)
        for counts in self.counts[1:]:
            store.trim(counts)
        for keys, values in self.appended:
            store.append(keys, values)
        return store


def random_tensor(generator: torch.Generator, batch: int, heads: int, columns: int, dim: int) -> Tensor:
    """`[batch, heads, columns, dim]` with the strides of a projection's output."""
    return torch.randn(batch, columns, heads, dim, generator=generator).transpose(1, 2)


@st.composite
def lives(draw: st.DrawFn) -> Life:
    """Padding, empty heads, no evictable column at all, several trims, forwards of one token and of many."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    batch, heads, window = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    evictable, head_dim = draw(st.integers(0, 9)), draw(st.sampled_from([1, 4, 5]))
    value_dim = draw(st.sampled_from([head_dim, 3]))
    padding = [draw(st.integers(0, evictable)) for _ in range(batch)]
    ranked = [
        torch.stack([torch.randperm(evictable - pad, generator=generator) + pad for _ in range(heads)])
        for pad in padding
    ]
    counts = [[[draw(st.integers(0, evictable - pad)) for _ in range(heads)] for pad in padding]]
    for _ in range(draw(st.integers(0, 3))):
        counts.append([[draw(st.integers(0, count)) for count in row] for row in counts[-1]])
    appended = [
        (random_tensor(generator, batch, heads, q, head_dim), random_tensor(generator, batch, heads, q, value_dim))
        for q in draw(st.lists(st.sampled_from([1, 1, 2, 40]), max_size=4))
    ]
    keys, values = (random_tensor(generator, batch, heads, evictable + window, dim) for dim in (head_dim, value_dim))
    return Life(keys, values, ranked, counts, window, appended)


def held_rows(store: RaggedStore, sequence: int, head: int) -> tuple[Tensor, Tensor, list[int]]:
    """One head's survivors and the columns they came from, in the order they are stored."""
    assert store.past is not None
    segment = sequence * store.num_heads + head
    rows = slice(store.past.offsets[segment], store.past.offsets[segment + 1])
    return store.past.keys[rows], store.past.values[rows], store.past.columns[rows].tolist()
