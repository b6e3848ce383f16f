"""(c) Masks per head on the full cache: what masking libraries do. Right, but nothing gets smaller."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lavakv.bench.contender import Contender
from lavakv.bench.head_masks import HeadMasks, Way
from lavakv.hf.attention import call_delegate, mask_of, register_as
from lavakv.hf.cache import LavaCache
from lavakv.hf.enable import decoder_of

NAME = "bench_masked_"
_ACTIVE: ContextVar[HeadMasks | None] = ContextVar("lavakv_bench_masks", default=None)


def masked_like(full: Contender, kept: LavaCache, model: Any, room: int, way: Way) -> Contender:
    """The full cache's keys and values, under masks that show what another cache kept.

    Args:
        full: holds the prompt; its tensors are shared until a token is added.
        kept: holds the same prompt, compressed.
        model: the model of both.
        room: tokens that will be added at most.
        way: how hidden columns are kept out.
    """
    cache = DynamicCache(config=model.config)
    cache.layers = [copy.copy(layer) for layer in full.cache.layers]
    masks = HeadMasks(kept, room, way).on(cache.layers[kept.layer_indices[0]].keys)
    return Contender(cache, lambda: masks_on(model, masks), masks.nbytes)


def way_for(device: torch.device) -> Way:
    """The faster way: a GPU's flash kernels split long caches over its cores, its kernels with masks do not."""
    return "fake_keys" if device.type == "cuda" else "mask"


@contextmanager
def masks_on(model: Any, masks: HeadMasks) -> Iterator[None]:
    """Let a model's compressed layers see only what the masks show."""
    decoder = decoder_of(model)
    original = str(decoder.config._attn_implementation)
    register_as(NAME + original, _on_top_of(original), mask_of(original))
    decoder.set_attn_implementation(NAME + original)
    token = _ACTIVE.set(masks)
    try:
        yield
    finally:
        _ACTIVE.reset(token)
        decoder.set_attn_implementation(original)


def _on_top_of(delegate: str) -> Any:
    def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
        masks = _ACTIVE.get()
        if masks is None or module.layer_idx not in masks.layers:
            return call_delegate(delegate, module, query, key, value, attention_mask, **kwargs)
        return masks.attend(delegate, module, query, key, value, **kwargs)

    return attention
