"""What the stores hold, told in a sequence's own positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lavakv.hf.columns import Columns
from lavakv.store.base import LayerStore


def held_lengths(columns: Columns, stores: Sequence[LayerStore]) -> Tensor:
    """Entries held now, padding not counted, int64 `[layers, batch, heads]`; 0 for a head that a layer lacks."""
    most_heads = max(store.num_heads for store in stores)
    lengths = torch.zeros(len(stores), columns.real.shape[0], most_heads, dtype=torch.int64, device="cpu")
    for row, store in enumerate(stores):
        tail = columns.real[:, -store.tail_length :].sum(dim=1).cpu()
        lengths[row, :, : store.num_heads] = torch.tensor(store.past_counts(), device="cpu") + tail[:, None]
    return lengths


def held_positions(columns: Columns, store: LayerStore, sequence: int, head: int) -> Tensor:
    """Original positions one head holds now, int64, ascending."""
    past = store.past_columns(sequence, head)
    tail = torch.arange(columns.length - store.tail_length, columns.length, device=past.device)
    return columns.positions(sequence, torch.cat([past, tail])).cpu()
