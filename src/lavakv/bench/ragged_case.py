"""A compressed layer with heads of very different lengths, generated from a seed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.attention import AttentionRequest, AttentionSettings
from lavakv.attention.partial import attend_part
from lavakv.bench.settings import Setting
from lavakv.budgets.divide import divide
from lavakv.store.ragged import RaggedStore

FLOOR_SHARE = 0.2  # of a layer's entries, divided evenly as in policies that pool heads


class LayerShape(NamedTuple):
    """Attention of one layer."""

    query_heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    def normal(self, *sizes: int, seed: int) -> Tensor:
        """Seeded normal numbers of the layer's dtype on its device."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(sizes, dtype=self.dtype, device=self.device, generator=generator)

    def queries(self, batch: int, seed: int) -> Tensor:
        """One new token's queries, `[batch, query_heads, 1, head_dim]`."""
        return self.normal(batch, self.query_heads, 1, self.head_dim, seed=seed)


def skewed_counts(setting: Setting, heads: int, window: int, seed: int) -> list[list[int]]:
    """Entries of each head before the window, `[batch][heads]`: log-normal shares, exact totals."""
    generator = torch.Generator().manual_seed(seed)
    most, mean = setting.tokens - window, setting.held - window
    caps = torch.full((heads,), most)
    counts: list[list[int]] = []
    for _ in range(setting.batch_size):
        drawn = torch.randn(heads, generator=generator, dtype=torch.float64).exp()
        shares = (1 - FLOOR_SHARE) * drawn / drawn.sum() + FLOOR_SHARE / heads
        counts.append(divide(mean * heads, shares, caps).tolist())
    return counts


class RaggedCase(NamedTuple):
    """A compressed layer and one new token's request to it."""

    store: RaggedStore
    request: AttentionRequest

    @classmethod
    def made_up(cls, shape: LayerShape, setting: Setting, window: int, seed: int) -> RaggedCase:
        """Fill a store through its own interface, including one generated token."""
        counts = skewed_counts(setting, shape.kv_heads, window, seed)
        most = max(max(row) for row in counts)
        sizes = (setting.batch_size, shape.kv_heads, most + window, shape.head_dim)
        store = RaggedStore()
        store.hold(shape.normal(*sizes, seed=2 * seed), shape.normal(*sizes, seed=2 * seed + 1))
        ranked = torch.arange(most, device=shape.device).expand(shape.kv_heads, most)
        store.keep([ranked] * setting.batch_size, counts, window)
        new = (setting.batch_size, shape.kv_heads, 1, shape.head_dim)
        store.append(shape.normal(*new, seed=seed), shape.normal(*new, seed=seed + 1))
        settings = AttentionSettings(shape.head_dim**-0.5)
        return cls(store, AttentionRequest(shape.queries(setting.batch_size, seed), settings))

    def segments(self) -> list[tuple[Tensor, Tensor]]:
        """All keys and values of each head of each sequence, `[entries, dim]`, sequence-major."""
        past, tail = self.store.past, self.store.tail
        assert past is not None
        assert tail is not None
        tails = zip(tail.keys.flatten(0, 1), tail.values.flatten(0, 1), strict=True)
        return [
            (torch.cat([keys, more_keys]), torch.cat([values, more_values]))
            for (keys, values), (more_keys, more_values) in zip(past.segments, tails, strict=True)
        ]

    def expected(self) -> Tensor:
        """The expected output in float32, computed head by head, `[batch, query_heads, 1, head_dim]`."""
        queries, (scaling, _, _), *_ = self.request
        batch, heads = queries.shape[0], self.store.num_heads
        grouped = queries.float().reshape(batch * heads, -1, queries.shape[3])
        outputs = [
            attend_part(rows, keys.float(), values.float(), scaling, None, None).output
            for rows, (keys, values) in zip(grouped, self.segments(), strict=True)
        ]
        return torch.stack(outputs).reshape(batch, queries.shape[1], 1, -1)
