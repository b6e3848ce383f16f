"""(c) Masks per head on the full cache: what masking libraries do. Right, but nothing gets smaller."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lavakv.bench.contender import Contender
from lavakv.bench.head_masks import HeadMasks, Way
from lavakv.hf import interface
from lavakv.hf.cache import LavaCache
from lavakv.hf.interface import Interceptor


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
    return Contender(cache, lambda: masks_on(masks), masks.nbytes)


def way_for(device: torch.device) -> Way:
    """The faster way: a GPU's flash kernels split long caches over its cores, its kernels with masks do not."""
    return "fake_keys" if device.type == "cuda" else "mask"


@contextmanager
def masks_on(masks: HeadMasks) -> Iterator[None]:
    """Let a model's layers see only what the masks show, if they are among the compressed ones."""
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
