"""(c) Masks per head on the full cache, as masking libraries evict: the output is the same, the memory is not saved.

As fast as PyTorch's public attention allows. `mask`: an additive mask, made once, without repeating keys for the query
heads of a group. `fake_keys`: at every step, hidden keys are replaced by a vector to which the step's queries give no
weight, so that flash kernels, which take no mask, can be used.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import DynamicCache

from lavakv.bench.configuration import Configuration
from lavakv.bench.fake_keys import fake_keys
from lavakv.errors import UnsupportedError
from lavakv.hf import interface
from lavakv.hf.cache import LavaCache
from lavakv.hf.interface import Interceptor

MaskMethod = Literal["mask", "fake_keys"]
_ALIGNED = 16  # row length of masks that memory-efficient kernels take without a copy


class HeadMasks:
    """The columns that each head may see, for every compressed layer.

    Args:
        kept: a cache that holds a prompt without padding.
        num_new_tokens: later columns, which all heads see.
        method: how columns are hidden.
    """

    def __init__(self, kept: LavaCache, num_new_tokens: int, method: MaskMethod) -> None:
        self._method = method
        self.layers: dict[int, Tensor] = {}
        columns = kept.get_seq_length()
        capacity = -(-(columns + num_new_tokens) // _ALIGNED) * _ALIGNED
        for index in kept.layer_indices:
            layer: Any = kept.layers[index]
            hidden = torch.ones(kept.batch_size, layer.store.num_heads, capacity, dtype=torch.bool)
            hidden[:, :, columns:] = False
            for sequence, row in enumerate(hidden):
                for head, flags in enumerate(row):
                    flags[kept.kept_positions(index, sequence, head)] = False
            self.layers[index] = hidden

    def on(self, like: Tensor) -> HeadMasks:
        """Move the masks to the device of a tensor, in its dtype if they are additive."""
        for index, hidden in self.layers.items():
            moved = hidden.to(like.device)
            if self._method == "mask":
                moved = torch.zeros(moved.shape, dtype=like.dtype, device=like.device).masked_fill_(moved, -torch.inf)
            self.layers[index] = moved
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of all masks."""
        return sum(mask.nbytes for mask in self.layers.values())

    def attend(self, delegate: Any, module: Any, query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Any:
        """Attention of one new token, `[B, query_heads, 1, dim]`, to the columns that each head may see."""
        mask = self.layers[module.layer_idx][:, :, : key.shape[2]]
        scaling = kwargs.get("scaling")
        if self._method == "fake_keys":
            fake = fake_keys(query, key.shape[1], query.shape[-1] ** -0.5 if scaling is None else float(scaling))
            hidden = torch.where(mask[..., None], fake[:, :, None], key)
            return delegate(module, query, hidden, value, None, **kwargs)
        batch, heads = key.shape[:2]
        if module.config._attn_implementation == "eager":
            per_query_head = mask.repeat_interleave(query.shape[1] // heads, dim=1)[:, :, None]
            return delegate(module, query, key, value, per_query_head, **kwargs)
        _require_plain(module, kwargs)
        grouped = query.reshape(batch, heads, -1, query.shape[3])
        output = scaled_dot_product_attention(grouped, key, value, attn_mask=mask[:, :, None], scale=scaling)
        return output.reshape(batch, 1, query.shape[1], -1), None


def _require_plain(module: Any, kwargs: dict[str, Any]) -> None:
    for name in ("softcap", "s_aux"):
        if kwargs.get(name) is not None:
            raise UnsupportedError(
                "masked configuration",
                expected="attention without softcap and sinks",
                got=f"{name} in {type(module).__name__}",
                fix="Use --attention eager, or skip it with --no-masked.",
            )


def masked_like(
    full: Configuration, kept: LavaCache, model: Any, num_new_tokens: int, method: MaskMethod
) -> Configuration:
    """The full cache's keys and values, under masks that show only what another cache kept.

    Args:
        full: holds the prompt; its tensors are shared until a token is added.
        kept: holds the same prompt, compressed.
        model: the model of both.
        num_new_tokens: maximum number of tokens to be added.
        method: how columns are hidden.
    """
    cache = DynamicCache(config=model.config)
    cache.layers = [copy.copy(layer) for layer in full.cache.layers]
    masks = HeadMasks(kept, num_new_tokens, method).on(cache.layers[kept.layer_indices[0]].keys)
    return Configuration(cache, lambda: masks_on(masks), masks.nbytes)


def mask_method_for(device: torch.device) -> MaskMethod:
    """The faster method: a GPU's flash kernels split long caches over its cores, its kernels with masks do not."""
    return "fake_keys" if device.type == "cuda" else "mask"


@contextmanager
def masks_on(masks: HeadMasks) -> Iterator[None]:
    """Restrict the compressed layers of a model to the columns that the masks show."""
    token = object()
    interface.start(token, Interceptor(partial(_attention, masks)))
    try:
        yield
    finally:
        interface.stop(token)


def _attention(
    masks: HeadMasks, delegate: Any, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
) -> Any:
    if module.layer_idx not in masks.layers:
        return delegate(module, query, key, value, mask, **kwargs)
    return masks.attend(delegate, module, query, key, value, **kwargs)
