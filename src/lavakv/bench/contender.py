"""Who is compared: the full cache, a plain cache cut to the budget, lavakv, and masks per head on the full cache."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import DynamicCache

import lavakv
from lavakv.bench.settings import BenchSettings, Setting
from lavakv.hf.cache import LavaCache
from lavakv.hf.contract import cache_argument
from lavakv.hf.geometry import geometry_of, stock_layers
from lavakv.hf.memory import layer_bytes


@dataclass
class Contender:
    """A filled cache and what must hold while the model runs on it.

    Attributes:
        cache: a transformers cache.
        around: entered around its forwards, outside the timing.
        extra_bytes: what it needs beside its keys and values.
    """

    cache: Any
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    extra_bytes: int = 0

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values allocated now, and of what it needs beside them."""
        return sum(layer_bytes(layer) for layer in self.cache.layers) + self.extra_bytes


def read_prompt(model: Any, ids: Tensor, contender: Contender) -> Contender:
    """Run the prompt `[B, tokens]` into an empty contender."""
    with contender.around():
        model(ids, **cache_argument(model, contender.cache), logits_to_keep=1)
    return contender


def empty_full(model: Any) -> Contender:
    """(a) The cache that transformers would use."""
    return Contender(DynamicCache(config=model.config))


def empty_lavakv(model: Any, settings: BenchSettings, budget: int) -> Contender:
    """What is to be measured."""
    cache = LavaCache(model.config, budget, settings.policy, settings.window)
    return Contender(cache, lambda: lavakv.enabled(model))


def cut_to_budget(model: Any, ids: Tensor, setting: Setting) -> Contender:
    """(b) A plain cache of the last `budget` tokens: the floor of what eviction can give.

    Where uncompressed layers have a window that is longer, they hold what they hold after the whole prompt.
    """
    indices = geometry_of(model.config).layer_indices
    others = [layer for index, layer in enumerate(stock_layers(model.config)) if index not in indices]
    reach = max([setting.held, *(int(getattr(layer, "sliding_window", 0) or 0) for layer in others)])
    contender = read_prompt(model, ids[:, -reach:], empty_full(model))
    for index in indices if reach > setting.held else ():
        layer = contender.cache.layers[index]
        layer.keys = layer.keys[:, :, -setting.held :].clone()
        layer.values = layer.values[:, :, -setting.held :].clone()
    return contender
