"""Attention over what a store holds: new queries on survivors, window and new tokens."""

from __future__ import annotations

from torch import Tensor

from lavakv.attention.plan import AttentionPlan
from lavakv.attention.request import AttentionRequest, AttentionSettings
from lavakv.store.base import LayerStore

__all__ = ["AttentionPlan", "AttentionRequest", "AttentionSettings", "attend"]


def attend(store: LayerStore, request: AttentionRequest) -> Tensor:
    """Attend with new queries to everything one layer's store holds; `AttentionPlan` serves all layers of a forward.

    Returns:
        `[B, query_heads, q, value_dim]` in the queries' dtype.
    """
    return AttentionPlan().attend(store, request)
