"""What a cache holds of its prompt, in numbers that JSON can take."""

from __future__ import annotations

from typing import Any, NamedTuple

from lavakv.hf import LavaCache
from lavakv.hf.geometry import geometry_of


class Kept(NamedTuple):
    """What one sequence of a cache holds of its prompt.

    Attributes:
        entries: of all compressed layers and heads.
        fraction: the same as a share of the prompt's.
        layer_entries: of each compressed layer.
        head_entries: of each KV head of each compressed layer.
        estimated_loss: the paper's bound, summed over layers.
        kv_bytes: bytes of keys and values, all layers.
    """

    entries: int
    fraction: float
    layer_entries: list[int]
    head_entries: list[list[int]]
    estimated_loss: float
    kv_bytes: int


def kept_by_sequence(cache: LavaCache, config: Any, num_tokens: int) -> list[Kept]:
    """What each sequence of a cache holds of a prompt of `num_tokens` tokens.

    Args:
        cache: holds the prompt.
        config: the model's.
        num_tokens: length of the prompt.
    """
    num_heads = geometry_of(config).num_heads
    budgets = cache.budgets()
    layers, heads, loss = budgets.layer_entries, budgets.head_entries, budgets.estimated_loss
    return [
        Kept(
            entries := int(layers[:, row].sum()),
            entries / (num_tokens * sum(num_heads)),
            layers[:, row].tolist(),
            [each[row, :count].tolist() for each, count in zip(heads, num_heads, strict=True)],
            float(loss[:, row].sum()),
            num_bytes,
        )
        for row, num_bytes in enumerate(cache.bytes_by_sequence())
    ]
