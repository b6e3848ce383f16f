"""The compared configurations: the full cache, a cache cut to the budget, lavakv; `masked.py` adds masks per head."""

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
class Configuration:
    """A cache and the context in which the model runs on it.

    Attributes:
        cache: a transformers cache.
        around: context entered around its forwards, outside the timing.
        extra_bytes: memory it needs besides keys and values.
    """

    cache: Any
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    extra_bytes: int = 0

    @property
    def kv_bytes(self) -> int:
        """Bytes allocated now for keys and values, and `extra_bytes`."""
        return sum(layer_bytes(layer) for layer in self.cache.layers) + self.extra_bytes


def read_prompt(model: Any, ids: Tensor, configuration: Configuration) -> Configuration:
    """Run the prompt `[B, tokens]` into an empty configuration."""
    with configuration.around():
        model(ids, **cache_argument(model, configuration.cache), logits_to_keep=1)
    return configuration


def empty_full(model: Any) -> Configuration:
    """(a) The cache that transformers uses by default."""
    return Configuration(DynamicCache(config=model.config))


def empty_lavakv(model: Any, settings: BenchSettings, budget: int) -> Configuration:
    """The cache under test."""
    cache = LavaCache(model.config, budget, settings.policy, settings.window)
    return Configuration(cache, lambda: lavakv.enabled(model))


def cut_to_budget(model: Any, ids: Tensor, setting: Setting) -> Configuration:
    """(b) A plain cache of the last `budget` tokens: the lower bound for what eviction can reach.

    Uncompressed layers with a longer window hold what they hold after the whole prompt.
    """
    indices = geometry_of(model.config).layer_indices
    others = [layer for index, layer in enumerate(stock_layers(model.config)) if index not in indices]
    reach = max([setting.held, *(int(getattr(layer, "sliding_window", 0) or 0) for layer in others)])
    configuration = read_prompt(model, ids[:, -reach:], empty_full(model))
    for index in indices if reach > setting.held else ():
        layer = configuration.cache.layers[index]
        layer.keys = layer.keys[:, :, -setting.held :].clone()
        layer.values = layer.values[:, :, -setting.held :].clone()
    return configuration
