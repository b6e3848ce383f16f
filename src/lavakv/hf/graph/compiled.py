"""A model's layers compiled inside a captured step, with lavakv's attention as one operator.

Layers alike share one compiled graph: what differs between them (weights, a store's tensors) is its input, and sizes
that differ are dynamic. So a compilation takes as long as one layer does, and serves later calls of `generate`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from lavakv.attention import AttentionRequest, AttentionSettings
from lavakv.attention.operator import StoreTensors
from lavakv.hf.cache import LavaCache
from lavakv.hf.graph.static_layers import StaticRagged, StaticSliding
from lavakv.hf.graph.static_step import StaticStep
from lavakv.hf.layer import PendingKeyValues
from lavakv.hf.tail_watch import stacklevel

MAX_GRAPHS = 64  # for layers that differ, models and batch sizes, before a layer runs uncompiled
_WITHOUT_GRAPHS = {
    "reduce-overhead": "default",
    "max-autotune": "max-autotune-no-cudagraphs",
}  # lavakv captures the graph
_warned: set[str] = set()


class CompressedSlot:
    """Stands in for the cache, and behind `PendingKeyValues` for its layer, while a compressed layer is traced.

    Args:
        layer: the compressed layer.
        step: the step under way.

    Attributes:
        queries: what the layer attended with last, `[B, query_heads, 1, head_dim]`.
        output: what that gave, `[B, query_heads, 1, value_dim]`.
    """

    num_columns = 1  # what is attended to is held, not a prompt

    def __init__(self, layer: StaticRagged, step: StaticStep) -> None:
        self._store, self._step = layer.store, step
        self._tensors, self._masks = StoreTensors.of(layer.store), step.masks(layer.store)
        self.queries: Tensor | None = None
        self.output: Tensor | None = None
        self._tensors.mark_sizes_dynamic()
        for mask in self._masks:
            if mask is not None:
                torch._dynamo.maybe_mark_dynamic(mask, 3)

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> Any:
        """See `LavaLayer.update`."""
        pending = PendingKeyValues(self, keys, values)  # type: ignore[arg-type]
        return pending, pending

    def note_attention(self, *_: Any) -> None:
        """The forwards before have noted it."""

    def append(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Any, settings: AttentionSettings) -> Tensor:
        """See `LavaLayer.append`."""
        self.queries = queries
        masks = self._masks if mask is None else self._step.masks(self._store, mask)
        request = AttentionRequest(queries, settings, *masks)
        self.output = self._tensors.attend(keys, values, request, self._step.length).transpose(1, 2)
        return self.output


class SlidingSlot:
    """Stands in for the cache while a sliding layer is traced."""

    def __init__(self, layer: StaticSliding) -> None:
        self._layer = layer

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> Any:
        """See `StaticSliding.update`."""
        return self._layer.update(keys, values)


class CompiledLayers:
    """The layers of a model that a captured step may run compiled.

    Args:
        model: whose forward is captured.
        cache: its cache.
        step: has run once, uncompiled.
        settings: arguments of `torch.compile`, as `compile_config` of `generate` names them.
    """

    def __init__(self, model: nn.Module, cache: LavaCache, step: StaticStep, settings: dict[str, Any]) -> None:
        self._cache, self._step = cache, step
        self._compiled = torch.compile(_call_layer, **_arguments(settings))
        self._slots: list[tuple[nn.Module, int, CompressedSlot | SlidingSlot]] = []
        for module, index in _decoder_layers(model):
            slot = _slot(step, index)
            if slot is not None:
                self._slots.append((module, index, slot))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let forwards with the cache run these layers compiled."""
        try:
            for module, index, slot in self._slots:
                module.forward = partial(self._forward, module, index, slot)
            with torch._dynamo.config.patch(recompile_limit=MAX_GRAPHS):
                yield
        finally:
            for module, _, _ in self._slots:
                module.__dict__.pop("forward", None)

    def _forward(
        self, module: nn.Module, index: int, slot: CompressedSlot | SlidingSlot, *args: Any, **kwargs: Any
    ) -> Any:
        if not any(value is self._cache for value in (*args, *kwargs.values())):  # another thread's
            return type(module).forward(module, *args, **kwargs)
        args = tuple(slot if value is self._cache else value for value in args)
        kwargs = {name: slot if value is self._cache else value for name, value in kwargs.items()}
        output = self._compiled(module, args, kwargs)
        if isinstance(slot, CompressedSlot):
            assert slot.queries is not None
            assert slot.output is not None
            self._step.note(index, slot.queries, self._step.log.settings[index], slot.output)
        return output


def compiled_layers(
    model: nn.Module, cache: LavaCache, step: StaticStep, config: Any, trial: Callable[[CompiledLayers], object]
) -> CompiledLayers | None:
    """The compiled layers of a model, or None, with a warning, where they cannot be compiled.

    Args:
        model: whose forward is captured.
        cache: its cache.
        step: has run once, uncompiled.
        config: the user's `compile_config`.
        trial: runs the step with compiled layers; compiles them.
    """
    try:
        layers = CompiledLayers(model, cache, step, config.to_dict())
        trial(layers)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the compiler or a missing C compiler raises
        cause = getattr(error, "inner_exception", error)
        text = (str(cause).strip().splitlines() or [""])[0]
        _warn_once(f"{type(cause).__name__}: {text}")
        return None
    return layers


def _call_layer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What is compiled: one layer's forward, without the hooks around it."""
    return type(module).forward(module, *args, **kwargs)


def _arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `torch.compile`: the user's, without CUDA graphs inside the one that is captured.

    `dynamic=False` would compile again for every layer and every prompt, so it reads as None.
    """
    found = {"backend": settings.get("backend", "inductor"), "fullgraph": bool(settings.get("fullgraph"))}
    found["dynamic"] = settings.get("dynamic") or None
    options, mode = settings.get("options"), settings.get("mode") or "default"
    if options:
        inductor = {"triton.cudagraphs": False} if found["backend"] == "inductor" else {}
        return {**found, "options": {**options, **inductor}}
    return {**found, "mode": _WITHOUT_GRAPHS.get(mode, mode)}


def _decoder_layers(model: nn.Module) -> Iterator[tuple[nn.Module, int]]:
    """Layers of a model around exactly one causal attention, with the number of their layer in the cache."""
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and "forward" not in module.__dict__:
            attentions = [part for part in module.modules() if isinstance(getattr(part, "is_causal", None), bool)]
            index = getattr(attentions[0], "layer_idx", None) if len(attentions) == 1 else None
            if isinstance(index, int) and not getattr(attentions[0], "is_kv_shared_layer", False):
                yield module, index


def _slot(step: StaticStep, index: int) -> CompressedSlot | SlidingSlot | None:
    """What stands in for the cache in a layer, or None where a layer needs more of it than its keys."""
    layer = step.layers[index] if index < len(step.layers) else None
    if isinstance(layer, StaticSliding):
        return SlidingSlot(layer)
    if isinstance(layer, StaticRagged) and not layer.is_recurrent and index in step.log.settings:
        return CompressedSlot(layer, step)
    return None


def _warn_once(reason: str) -> None:
    if reason not in _warned:
        _warned.add(reason)
        warnings.warn(
            f"lavakv: the decode step is captured without `compile_config`: its layers cannot be compiled ({reason})",
            stacklevel=stacklevel(),
        )
