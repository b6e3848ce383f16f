"""What happens around the forwards of an enabled model: hooks on the model, its decoder and the decoder's layers."""

from __future__ import annotations

import inspect
import threading
from typing import Any

from torch import Tensor, nn
from transformers import EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer

from lavakv.errors import InputError, UnsupportedError
from lavakv.hf import interface
from lavakv.hf.attention import INTERCEPTOR
from lavakv.hf.cache import LavaCache
from lavakv.hf.checks import check_settings, enabled_decoders
from lavakv.hf.contract import cache_name
from lavakv.hf.driven import refuse_compiling
from lavakv.hf.interface import Token
from lavakv.hf.weights import check_weights_loaded


def watch_decoder(decoder: nn.Module) -> list[Any]:
    """Announce forwards of a decoder to the `LavaCache` among their arguments, under any name; returns the hooks."""
    hooks: list[Any] = [
        decoder.register_forward_pre_hook(_before_forward, with_kwargs=True),
        decoder.register_forward_hook(_after_forward, with_kwargs=True, always_call=True),
    ]
    layers = [module for module in decoder.modules() if isinstance(module, GradientCheckpointingLayer)]
    return hooks + [layer.register_forward_pre_hook(_before_layer, with_kwargs=True) for layer in layers]


def watch_model(model: nn.Module) -> list[Any]:
    """Watch the model around a decoder, which may make its masks and embed its ids; returns the hooks."""
    return [
        model.register_forward_pre_hook(_before_outer, with_kwargs=True),
        model.register_forward_hook(_after_outer, with_kwargs=True, always_call=True),
    ]


def _cache_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> LavaCache | None:
    """The `LavaCache` among a forward's arguments, under whatever name."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, LavaCache):
            return value
    return None


def _announced_cache(args: tuple[Any, ...], kwargs: dict[str, Any]) -> LavaCache | None:
    """`_cache_in`, at the start of a forward: refuses what no later hook could serve."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, EncoderDecoderCache) and isinstance(value.self_attention_cache, LavaCache):
            raise _another_cache("an EncoderDecoderCache around it")
    return _cache_in(args, kwargs)


def _token(module: Any, cache: LavaCache) -> Token:
    return Token(id(module), id(cache), threading.get_ident())


def _before_outer(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    cache = _announced_cache(args, kwargs)
    if cache is None:
        return
    refuse_compiling()
    interface.start(_token(model, cache), INTERCEPTOR)  # models around a decoder make its masks
    ids = _arguments(model, args, kwargs).get("input_ids")
    if isinstance(ids, Tensor):
        cache.note_ids(ids)


def _after_outer(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], _output: Any) -> None:
    cache = _cache_in(args, kwargs)
    if cache is not None:
        interface.stop(_token(model, cache))
        cache.note_ids(None)


def _before_forward(decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    cache = _announced_cache(args, kwargs)
    if cache is None:
        return
    refuse_compiling()
    check_settings(kwargs, decoder.config)
    given = _arguments(decoder, args, kwargs)
    inputs = given.get("inputs_embeds")
    inputs = given.get("input_ids") if inputs is None else inputs
    if inputs is None:
        raise InputError("input_ids", expected="token ids or embeddings", got="neither", fix="Pass one of them.")
    enabled_decoders.add(decoder)
    if cache.batch_size < 0:
        check_weights_loaded(decoder)
    cache.begin(decoder, inputs, given.get("attention_mask"), given.get("position_ids"))
    interface.start(_token(decoder, cache), INTERCEPTOR)


def _before_layer(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    cache = _cache_in(args, kwargs)
    hidden_states = args[0] if args else kwargs.get("hidden_states")
    if cache is not None and isinstance(hidden_states, Tensor) and hidden_states.ndim == 3:  # Gemma 3n's are several
        cache.note_hidden_states(hidden_states)
        if cache.wants_attention_inputs():
            _watch_attention(_layer, cache)
    if cache is not None:
        cache.note_rotation(kwargs.get("position_embeddings"))


def _watch_attention(layer: nn.Module, cache: LavaCache) -> None:
    """Note what a layer's attention is given the next time in this thread, and only then."""
    own = threading.get_ident()

    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != own:  # another cache's forward, through the same module
            return
        handle.remove()
        given = args[0] if args else kwargs.get("hidden_states")
        if isinstance(given, Tensor) and given.ndim == 3:
            cache.note_attention_inputs(given)

    attentions = [part for part in layer.modules() if isinstance(getattr(part, "is_causal", None), bool)]
    if attentions:
        handle = attentions[0].register_forward_pre_hook(note, with_kwargs=True)


def _after_forward(decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    cache = _cache_in(args, kwargs)
    if cache is not None:
        interface.stop(_token(decoder, cache))
        cache.end(succeeded=output is not None)
        returned = getattr(output, cache_name(decoder), None)
        if returned is not None and returned is not cache:
            cache.reset()
            raise _another_cache(f"{type(returned).__name__} in what it returns; the cache is reset")


def _another_cache(got: str) -> UnsupportedError:
    return UnsupportedError(
        "cache", expected="a model that uses the LavaCache it is given, and no other", got=got,
        fix="This architecture cannot be compressed; use its own cache.",
    )  # fmt: skip


def _arguments(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a forward by name."""
    if not args:
        return kwargs
    return {**dict(zip(inspect.signature(module.forward).parameters, args, strict=False)), **kwargs}
