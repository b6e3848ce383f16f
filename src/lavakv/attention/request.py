"""What one forward asks of a compressed layer's attention."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class AttentionSettings(NamedTuple):
    """How a model's attention turns products into weights.

    Attributes:
        scaling: factor on query-key products.
        softcap: `c` in `c * tanh(x / c)`, or None.
        sinks: `[query_heads]` attention-sink logits that join the softmax denominator, or None.
    """

    scaling: float
    softcap: float | None = None
    sinks: Tensor | None = None


class AttentionRequest(NamedTuple):
    """New queries on everything a layer holds, their own tokens included.

    Attributes:
        queries: `[B, query_heads, q, head_dim]`; query heads of one KV head stand together.
        settings: the model's scaling, softcap and sinks.
        tail_mask: bool `[B, 1, q, tail]`, what each query sees of the tail, or None for all of it.
        past_mask: bool `[B, 1, 1 or q, columns]`, what of the columns before the tail each query sees where a head
            holds them, or None for all that is held.
    """

    queries: Tensor
    settings: AttentionSettings
    tail_mask: Tensor | None = None
    past_mask: Tensor | None = None
