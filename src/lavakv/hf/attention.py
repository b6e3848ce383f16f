"""The attention function that an enabled model calls in every layer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lavakv.attention import AttentionRequest, AttentionSettings, attend
from lavakv.hf.layer import PendingKeyValues
from lavakv.hf.masks import without_waiting
from lavakv.hf.names import PREFIX
from lavakv.hf.projection import OutputProjection
from lavakv.hf.prompt import LayerPrompt


def register(delegate: str) -> str:
    """Register lavakv's attention on top of an attention implementation and return its name.

    The name contains `flash` exactly if the delegate's does, because transformers tests for that substring.
    """
    name = PREFIX + delegate.replace("/", "--")
    if name not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        register_as(name, _forward_on_top_of(delegate), without_waiting(mask_of(delegate)))
    return name


def register_as(name: str, function: Callable[..., tuple[Tensor, Tensor | None]], mask: Callable[..., Any]) -> None:
    """Register an attention function and the mask function that serves it."""
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, mask)


def mask_of(delegate: str) -> Callable[..., Any]:
    """The mask function of an attention implementation; one that comes from the hub is flash attention."""
    masks = AttentionMaskInterface()
    found: Callable[..., Any] = masks[delegate] if delegate in masks else masks["flash_attention_2"]
    return found


def _forward_on_top_of(delegate: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def lava_attention(
        module: nn.Module, query: Tensor, key: Any, value: Any, attention_mask: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        if not isinstance(key, PendingKeyValues):
            return call_delegate(delegate, module, query, key, value, attention_mask, **kwargs)
        settings = _settings(query, **kwargs)
        if key.layer.num_columns:
            return _append(key, query, attention_mask, settings), None
        output = call_delegate(delegate, module, query, key.keys, key.values, attention_mask, **kwargs)
        projection, hidden = OutputProjection.of(module, key.values, query.shape[1]), key.layer.hidden_states()
        key.layer.take_prompt(LayerPrompt(query, key.keys, key.values, attention_mask, settings, projection, hidden))
        return output

    return lava_attention


def _settings(
    query: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> AttentionSettings:
    """Scaling, softcap and sinks, under the names models pass them by."""
    return AttentionSettings(query.shape[-1] ** -0.5 if scaling is None else float(scaling), softcap, s_aux)


def _append(pending: PendingKeyValues, query: Tensor, attention_mask: Any, settings: AttentionSettings) -> Tensor:
    """Store new tokens and attend to everything held; `[B, q, query_heads, value_dim]` as transformers wants it."""
    layer = pending.layer
    tail_mask = layer.append(pending.keys, pending.values, attention_mask)
    output = attend(layer.store, AttentionRequest(query, settings, tail_mask))
    return output.transpose(1, 2).contiguous()


def call_delegate(delegate: str, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """Call the attention the user chose. `eager` is not registered: each model's own module defines it."""
    if delegate in ALL_ATTENTION_FUNCTIONS.valid_keys():
        function = ALL_ATTENTION_FUNCTIONS[delegate]
    else:
        function = sys.modules[type(module).__module__].eager_attention_forward
    caller = _DelegateView(module, delegate) if "flash" in delegate else module
    result: tuple[Tensor, Tensor | None] = function(caller, *args, **kwargs)
    return result


class _DelegateView:
    """A module as a flash delegate must see it: under the delegate's own name, by which it finds its kernels."""

    def __init__(self, target: Any, delegate: str) -> None:
        self._target, self._delegate = target, delegate

    def __getattr__(self, name: str) -> Any:
        if name == "_attn_implementation":
            return self._delegate
        if name == "config":
            return _DelegateView(self._target.config, self._delegate)
        return getattr(self._target, name)
