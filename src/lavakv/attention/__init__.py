"""Attention over what a store holds: new queries on survivors, window and new tokens."""

from __future__ import annotations

from torch import Tensor

from lavakv.attention.choice import attend_store
from lavakv.attention.naive import attend_masked
from lavakv.attention.request import AttentionRequest, AttentionSettings
from lavakv.store.base import LayerStore
from lavakv.store.masked import MaskedStore
from lavakv.store.ragged import RaggedStore

__all__ = ["AttentionRequest", "AttentionSettings", "attend"]


def attend(store: LayerStore, request: AttentionRequest) -> Tensor:
    """Attend with new queries to everything the store holds, the queries' own tokens included.

    Returns:
        `[B, query_heads, q, value_dim]` in the queries' dtype.
    """
    if isinstance(store, RaggedStore):
        return attend_store(store, request)
    assert isinstance(store, MaskedStore)
    return attend_masked(store, request)
