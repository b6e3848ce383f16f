"""Bytes: what a cache's layers have allocated, and what its uncompressed layers will take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor
from transformers import PretrainedConfig, cache_utils
from transformers.cache_utils import CacheLayerMixin, LinearAttentionLayer

from lavakv.errors import UnsupportedError
from lavakv.hf.geometry import Geometry, head_dim, layer_config
from lavakv.hf.layer import LavaLayer
from lavakv.store.quantiser import Quantiser

STATELESS = tuple(filter(None, [getattr(cache_utils, "DummyLayer", None)]))  # not in the oldest transformers
_RECURRENT = ("conv_states", "recurrent_states")
_STATES = ("keys", "values", "indexer_keys", *_RECURRENT)


def layer_bytes(layer: Any) -> int:
    """Bytes allocated by one cache layer: whole storages, so that a view of something larger does not look small."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _states(layer)}
    return sum(storages.values()) + (layer.store.nbytes if isinstance(layer, LavaLayer) else 0)


def bytes_by_sequence(layers: Iterable[Any], batch: int) -> list[int]:
    """Bytes allocated for each sequence of a batch; what is shared evenly is counted evenly."""
    totals = [0] * batch
    for layer in layers:
        own = layer.store.bytes_by_sequence() if isinstance(layer, LavaLayer) else [0] * batch
        even = (layer_bytes(layer) - (layer.store.nbytes if isinstance(layer, LavaLayer) else 0)) // batch
        parts = [size + even for size in own]
        totals = [total + part for total, part in zip(totals, parts, strict=True)]
    return totals


def column_bytes(geometry: Geometry, itemsize: int, kv_bits: int | None) -> tuple[int, int]:
    """Bytes of one column in all compressed layers and heads: as the model makes it, and behind the window.

    Args:
        geometry: of the model.
        itemsize: bytes of one number in keys and values.
        kv_bits: bits of a number behind the window, or None for the same.
    """
    sizes = list(zip(geometry.num_heads, geometry.head_dims, strict=True))
    whole = 2 * sum(heads * size for heads, size in sizes) * itemsize
    if kv_bits is None:
        return whole, whole
    return whole, 2 * sum(heads * Quantiser(kv_bits, size).row_bytes for heads, size in sizes)


def detach_states(layers: Iterable[Any]) -> None:
    """Cut what uncompressed layers hold off the autograd graph, which would keep every layer's full keys alive."""
    for layer in layers:
        for name in _names(layer):
            state = getattr(layer, name, None)
            if isinstance(state, dict):
                state.update({key: tensor.detach() for key, tensor in state.items() if _in_graph(tensor)})
            elif _in_graph(state):
                setattr(layer, name, state.detach())


def release_views(layers: Iterable[Any]) -> None:
    """Copy what sliding-window layers kept of a long prompt or turn, so that the rest of it can be freed."""
    for layer in layers:
        for name in () if isinstance(layer, LavaLayer) else ("keys", "values"):
            tensor: Tensor | None = getattr(layer, name, None)
            if tensor is not None and tensor.untyped_storage().nbytes() > tensor.nbytes:
                setattr(layer, name, tensor.detach().clone(memory_format=torch.contiguous_format))


def other_layers_bytes(layers: Sequence[Any], config: PretrainedConfig, batch: int, columns: int, itemsize: int) -> int:
    """Bytes that the uncompressed layers will hold after a prompt of this shape.

    Raises:
        UnsupportedError: a recurrent or cross-attention layer, whose state no configuration tells.
    """
    text = config.get_text_config(decoder=True)
    cross = set(getattr(text, "cross_attention_layers", None) or ())
    total = 0
    for index, layer in enumerate(layers):
        recurrent = isinstance(layer, LinearAttentionLayer)
        if isinstance(layer, STATELESS) or (isinstance(layer, LavaLayer) and not recurrent):
            continue
        if not isinstance(layer, CacheLayerMixin) or recurrent or index in cross:
            raise UnsupportedError(
                "max_bytes",
                expected="a model without recurrent and cross-attention layers",
                got="cross-attention" if index in cross else type(layer).__name__,
                fix="Give the budget in tokens or as a kept fraction.",
            )
        own = layer_config(text, index)
        heads = getattr(own, "num_key_value_heads", None) or own.num_attention_heads
        held = min(columns, getattr(layer, "sliding_window", columns + 1) - 1)
        total += 2 * batch * heads * held * head_dim(own) * itemsize
    return total


def _names(layer: Any) -> tuple[str, ...]:
    """Attributes in which a cache layer keeps tensors; a compressed one keeps keys and values in its store."""
    return _RECURRENT if isinstance(layer, LavaLayer) else _STATES


def _states(layer: Any) -> Iterator[Tensor]:
    for name in _names(layer):
        state = getattr(layer, name, None)
        for tensor in state.values() if isinstance(state, dict) else state if isinstance(state, list) else [state]:
            if isinstance(tensor, Tensor):
                yield tensor


def _in_graph(state: Any) -> TypeGuard[Tensor]:
    return isinstance(state, Tensor) and state.requires_grad
