"""`enable`, `disable` and `enabled`: put lavakv's attention under a model, and take it away again."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lavakv.errors import InputError, UnsupportedError
from lavakv.hf.adapters import guard_adapter, unguard_adapter, unwrapped
from lavakv.hf.attention import register
from lavakv.hf.cache import LavaCache
from lavakv.hf.checks import check_settings
from lavakv.hf.generate import guard_generate, unguard_generate
from lavakv.hf.names import PREFIX
from lavakv.hf.weights import check_weights_loaded

Model = TypeVar("Model", bound=nn.Module)
_RECORD = "_lavakv_enabled"


def enable(model: Model) -> Model:
    """Let a model work with `LavaCache`. Other caches, and no cache, go on working as before.

    Registers an attention function on top of the model's own one and watches the decoder's forwards; idempotent. The
    attention implementation's name lives in the config: models built from one config object share it. Enabling one has
    no effect on the others; disabling one means that the others need `enable` again.

    Args:
        model: a transformers decoder-only model, with or without a language-model head, or the text part of a
            vision-language model; or a PEFT model around one.

    Returns:
        The same model.

    Raises:
        InputError: not a transformers model.
        UnsupportedError: an encoder-decoder model, or one whose attention does not go through transformers' interface.
    """
    decoder = decoder_of(model)
    if _RECORD in decoder.__dict__:
        if str(decoder.config._attn_implementation).startswith(PREFIX):
            _guard(model)  # its decoder may have been enabled without it
            return model
        disable(model)  # its attention implementation was changed since
    original = str(decoder.config._attn_implementation).removeprefix(PREFIX)
    delegate = _delegate(decoder, original)
    name = register(delegate)
    decoder.set_attn_implementation(name)
    if decoder.config._attn_implementation != name:
        raise _outside_interface(decoder)
    hooks = [
        decoder.register_forward_pre_hook(_before_forward, with_kwargs=True),
        decoder.register_forward_hook(_after_forward, with_kwargs=True, always_call=True),
    ]
    layers = [module for module in decoder.modules() if isinstance(module, GradientCheckpointingLayer)]
    hooks += [layer.register_forward_pre_hook(_before_layer, with_kwargs=True) for layer in layers]
    decoder.__dict__[_RECORD] = (original, hooks)
    _guard(model)
    return model


def _guard(model: nn.Module) -> None:
    guard_adapter(model)
    guard_generate(unwrapped(model))


def disable(model: Model) -> Model:
    """Undo `enable`: the model's own attention, no hooks. Does nothing to a model that is not enabled."""
    decoder = decoder_of(model)
    unguard_adapter(model)
    record = decoder.__dict__.pop(_RECORD, None)
    if record is not None:
        original, hooks = record
        for hook in hooks:
            hook.remove()
        if str(decoder.config._attn_implementation).startswith(PREFIX):
            decoder.set_attn_implementation(original)
        unguard_generate(unwrapped(model))
    return model


@contextmanager
def enabled(model: Model) -> Iterator[Model]:
    """`enable` on entry, `disable` on exit; a model that was enabled before stays so."""
    before = _RECORD in decoder_of(model).__dict__
    try:
        yield enable(model)
    finally:
        if not before:
            disable(model)


def decoder_of(model: Any) -> PreTrainedModel:
    """The module whose forwards lavakv watches: the model without its language-model head.

    Raises:
        InputError: not a transformers model.
        UnsupportedError: an encoder-decoder model.
    """
    model = unwrapped(model)
    if not isinstance(model, PreTrainedModel):
        raise InputError(
            "model",
            expected="a transformers model",
            got=type(model).__name__,
            fix="Pass the model, not a wrapper around it.",
        )
    if model.config.is_encoder_decoder:
        raise UnsupportedError(
            f"model {model.config.model_type!r}",
            expected="a decoder-only model",
            got="an encoder-decoder model",
            fix="Use its own cache.",
        )
    decoder = model.get_decoder()
    return decoder if isinstance(decoder, PreTrainedModel) else model


def _delegate(decoder: Any, original: str) -> str:
    """The attention that does the dense work: the user's, unless it would drop the model's softcap."""
    can_set = getattr(decoder, "_can_set_attn_implementation", lambda: True)()
    if not can_set:
        raise _outside_interface(decoder)
    softcap = getattr(decoder.config, "attn_logit_softcapping", None)
    if softcap is None or original != "sdpa":
        return original
    warnings.warn(
        f"lavakv: sdpa attention drops the softcap of {decoder.config.model_type}; its dense attention runs as 'eager'",
        stacklevel=3,
    )
    return "eager"


def _outside_interface(decoder: Any) -> UnsupportedError:
    return UnsupportedError(
        f"model {decoder.config.model_type!r}",
        expected="attention that goes through transformers' AttentionInterface",
        got="attention of its own",
        fix="This architecture cannot be compressed.",
    )


def _before_forward(decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given = _arguments(decoder, args, kwargs)
    cache = given.get("past_key_values")
    if isinstance(cache, LavaCache):
        check_settings(kwargs, decoder.config)
        inputs = given.get("inputs_embeds")
        inputs = given.get("input_ids") if inputs is None else inputs
        if inputs is None:
            raise InputError("input_ids", expected="token ids or embeddings", got="neither", fix="Pass one of them.")
        if not cache.get_seq_length():
            check_weights_loaded(decoder)
        cache.begin(decoder, inputs, given.get("attention_mask"))


def _before_layer(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    cache = next((value for value in (*args, *kwargs.values()) if isinstance(value, LavaCache)), None)
    hidden_states = args[0] if args else kwargs.get("hidden_states")
    if cache is not None and isinstance(hidden_states, Tensor) and hidden_states.ndim == 3:  # Gemma 3n's are several
        cache.note_hidden_states(hidden_states)


def _after_forward(decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    cache = _arguments(decoder, args, kwargs).get("past_key_values")
    if isinstance(cache, LavaCache):
        cache.end(succeeded=output is not None)


def _arguments(decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a forward by name."""
    if not args:
        return kwargs
    return {**dict(zip(inspect.signature(decoder.forward).parameters, args, strict=False)), **kwargs}
