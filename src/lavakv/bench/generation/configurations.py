"""The ways to decode that `generate` is measured with, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CompileConfig, DynamicCache, StaticCache
from transformers.cache_utils import StaticLayer

import lavakv
from lavakv.bench.configuration import cut_to_budget
from lavakv.bench.generation.plain_graph import GraphStep, decoding_by, fixed_like, require_full_attention
from lavakv.bench.generation.reading import Filled, Reading
from lavakv.bench.settings import BenchSettings, Setting
from lavakv.bench.subject import Subject
from lavakv.hf.geometry import geometry_of

MEANINGS = {
    "full": "DynamicCache",
    "full_random": "DynamicCache of random numbers",
    "full_static": "StaticCache, compiled by generate",
    "cut": "DynamicCache of the budget's length",
    "cut_graph": "plain cache of the budget's length in a CUDA graph",
    "lavakv": "lavakv step by step",
    "lavakv_graph": "lavakv in a CUDA graph",
    "lavakv_compiled": "lavakv with compile_config",
}
EAGER = ("full", "cut", "lavakv")
GRAPHS = ("cut_graph", "lavakv_graph")
COMPILED = ("lavakv_compiled", "full_static")


@dataclass(frozen=True)
class Ready:
    """A filled cache and how `generate` is called with it.

    Attributes:
        cache: holds all tokens but the last.
        ids: int64 `[B, columns]`, the whole text.
        around: context entered around the call.
        compile_config: argument of `generate`, or None.
    """

    cache: Any
    ids: Tensor
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    compile_config: Any = None


class Configurations:
    """Makes what decodes in one setting.

    Args:
        subject: the model.
        reading: has read, or will read, the prompt for a batch that divides the setting's.
        setting: prompt, batch and budget.
        num_new: tokens that will be generated.
    """

    def __init__(self, subject: Subject, reading: Reading, setting: Setting, num_new: int) -> None:
        self._model, self._device = subject.model, subject.device
        self._reading, self._setting, self._num_new = reading, setting, num_new
        self._text = subject.model.config.get_text_config(decoder=True)

    @torch.no_grad()
    def ready(self, name: str) -> Ready:
        """Fill a cache.

        Raises:
            UnsupportedError: the model's layers do not allow it.
        """
        made: Ready = getattr(self, f"_{name}")()
        return made

    def _full(self) -> Ready:
        return Ready(*self._reading.full_rows(self._setting.batch_size))

    def _full_random(self) -> Ready:
        """Random keys and values: attention to all of a cache takes as long whatever it holds."""
        setting = self._setting
        heads, head_dim = self._kv_shape()
        cache = DynamicCache(config=self._text)
        like = {"dtype": self._model.dtype, "device": self._device}
        for index in range(len(cache.layers)):
            keys, values = (torch.randn(setting.batch_size, heads, setting.tokens, head_dim, **like) for _ in range(2))
            cache.update(keys, values, index)
        return Ready(cache, self._ids(setting.tokens + 1))

    def _full_static(self) -> Ready:
        """Random keys and values, as above."""
        cache: Any = StaticCache(config=self._text, max_cache_len=self._setting.tokens + self._num_new)
        require_full_attention(cache, StaticLayer, "full_static")
        heads, head_dim = self._kv_shape()
        cache.early_initialization(self._setting.batch_size, heads, head_dim, self._model.dtype, self._device)
        for layer in cache.layers:
            layer.keys.normal_()
            layer.values.normal_()
            layer.cumulative_length.fill_(self._setting.tokens)
        return Ready(cache, self._ids(self._setting.tokens + 1), self._compiling)

    def _cut(self) -> Ready:
        prompt = self._reading.prompt_rows(self._setting.batch_size)
        cache = cut_to_budget(self._model, prompt, self._setting).cache
        return Ready(cache, self._ids(cache.get_seq_length() + 1))

    def _cut_graph(self) -> Ready:
        cache = fixed_like(self._cut().cache)
        step = GraphStep(self._model, cache)
        return Ready(cache, self._ids(cache.get_seq_length() + 1), lambda: decoding_by(self._model, step))

    def _lavakv(self) -> Ready:
        return Ready(*self._lavakv_rows(graph=False), self._enabled)

    def _lavakv_graph(self) -> Ready:
        return Ready(*self._lavakv_rows(graph=True), self._enabled)

    def _lavakv_compiled(self) -> Ready:
        return Ready(*self._lavakv_rows(graph=True), self._enabled_and_compiling, CompileConfig())

    def _lavakv_rows(self, graph: bool) -> Filled:
        with self._enabled():
            filled = self._reading.lavakv_rows(self._setting.batch_size)
        filled.cache.graph = graph
        return filled

    def _ids(self, columns: int) -> Tensor:
        prompt = self._reading.prompt_rows(self._setting.batch_size)
        return torch.cat([prompt, prompt[:, :1]], dim=1)[:, -columns:]

    def _kv_shape(self) -> tuple[int, int]:
        """KV heads and head size of a model whose layers are equal."""
        geometry = geometry_of(self._model.config)
        return geometry.num_heads[0], geometry.head_dims[0]

    def _enabled(self) -> AbstractContextManager[Any]:
        return lavakv.enabled(self._model)

    @contextmanager
    def _enabled_and_compiling(self) -> Iterator[None]:
        with self._enabled(), self._compiling():
            yield

    @contextmanager
    def _compiling(self) -> Iterator[None]:
        """Forget what was compiled for other shapes, and free what was compiled afterwards."""
        self._forget_compiled()
        try:
            yield
        finally:
            self._forget_compiled()

    def _forget_compiled(self) -> None:
        self._model.__dict__.pop("_compiled_call", None)
        torch._dynamo.reset()


def unavailable(name: str, device: torch.device) -> str | None:
    """Why a configuration cannot be measured on a device, or None."""
    if name in EAGER or name == "full_random" or device.type == "cuda":
        return None
    return "no CUDA device" if name in GRAPHS else "no CUDA device: generate compiles only there"


def num_generations(settings: BenchSettings, device: torch.device) -> int:
    """Number of calls of the listener's `doing` for one setting, if all is measured."""
    names = (*EAGER, *GRAPHS, *(COMPILED if settings.compiled else ()))
    return 2 + sum(unavailable(name, device) is None for name in names)
