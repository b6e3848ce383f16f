"""A plain cache of fixed length whose decode step is one CUDA graph: the least that a cache of that length can cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer
from typing_extensions import override

from lavakv.bench.clock import captured
from lavakv.errors import UnsupportedError
from lavakv.hf.contract import cache_argument


class FixedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values that stay where they are: a new token overwrites the last column, and all columns are seen.

    Args:
        keys: `[B, H, columns, head_dim]`, copied.
        values: likewise.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys.clone(), values.clone()

    @override
    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one token `[B, H, 1, head_dim]` and return all columns."""
        self.keys[:, :, -1:].copy_(key_states)
        self.values[:, :, -1:].copy_(value_states)
        return self.keys, self.values

    @override
    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """All columns, from the first."""
        return self.keys.shape[2], 0

    @override
    def get_seq_length(self) -> int:
        """All columns but the one that the next token gets."""
        return int(self.keys.shape[2]) - 1


def require_full_attention(cache: Any, layer_type: type, name: str) -> None:
    """Raise UnsupportedError unless all layers of a cache are of the type that full attention has.

    Args:
        cache: a transformers cache.
        layer_type: that type.
        name: of the configuration that needs it.
    """
    for index, layer in enumerate(cache.layers):
        if type(layer) is not layer_type:
            raise UnsupportedError(
                f"layer {index}", expected="full attention in all layers", got=type(layer).__name__,
                fix=f"Read the figures without {name}.",
            )  # fmt: skip


def fixed_like(cache: Any) -> Cache:
    """A cache of fixed length with the keys and values of another.

    Args:
        cache: filled; all its layers are full attention.

    Raises:
        UnsupportedError: a layer of another kind.
    """
    require_full_attention(cache, DynamicLayer, "cut_graph")
    return Cache(layers=[FixedLayer(layer.keys, layer.values) for layer in cache.layers])


class GraphStep:
    """A model's decode step, captured at the first call and replayed from the second on.

    Args:
        model: a causal language model.
        cache: of fixed length.
    """

    def __init__(self, model: Any, cache: Cache) -> None:
        self._model, self._cache = model, cache
        self._replay: Callable[[], None] | None = None

    def __call__(self, **inputs: Any) -> Any:
        """The model's output for one new token; the same tensors at every call.

        Args:
            inputs: what `generate` gives a model; only `input_ids`, int64 `[B, 1]`, is read.
        """
        if self._replay is None:
            self._ids = inputs["input_ids"].clone()
            self._positions = torch.full_like(self._ids, self._cache.get_seq_length())
            self._replay = captured(self._step)
            return self._output
        self._ids.copy_(inputs["input_ids"])
        self._replay()
        return self._output

    def _step(self) -> None:
        self._output = self._model(
            input_ids=self._ids, position_ids=self._positions, **cache_argument(self._model, self._cache),
            use_cache=True, return_dict=True,
        )  # fmt: skip
        self._positions.add_(1)


@contextmanager
def decoding_by(model: Any, step: Callable[..., Any]) -> Iterator[None]:
    """Let `generate` of a model decode by `step`, where it would take a compiled forward."""
    methods = {"get_compiled_call": lambda _: step, "_valid_auto_compile_criteria": lambda *_: True}
    own = {name: model.__dict__[name] for name in methods if name in model.__dict__}
    model.__dict__.update(methods)
    try:
        yield
    finally:
        for name in methods:
            del model.__dict__[name]
        model.__dict__.update(own)
