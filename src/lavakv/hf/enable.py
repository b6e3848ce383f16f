"""`enable`, `disable` and `enabled`: let a model work with `LavaCache`, and take that away again."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from torch import nn
from transformers import PreTrainedModel

from lavakv.errors import InputError, UnsupportedError
from lavakv.hf import interface
from lavakv.hf.adapters import guard_adapter, unguard_adapter, unwrapped
from lavakv.hf.checks import enabled_decoders
from lavakv.hf.contract import check_contract
from lavakv.hf.generate import guard_generate, unguard_generate
from lavakv.hf.geometry import check_decoder
from lavakv.hf.graph.call import guard_decoding, unguard_decoding
from lavakv.hf.hooks import watch_decoder, watch_model

Model = TypeVar("Model", bound=nn.Module)
_RECORD = "_lavakv_enabled"


class _Enabled(NamedTuple):
    """What `enable` did to a module.

    Attributes:
        hooks: handles of the hooks it registered.
        replaced_attention: the attention implementation that was set before, if it had to be changed.
    """

    hooks: list[Any]
    replaced_attention: str | None = None


def enable(model: Model) -> Model:
    """Let a model work with `LavaCache`. Other caches, and no cache, go on working as before.

    Watches the forwards of the model and its decoder; idempotent. No name and no weight changes: while a forward with a
    `LavaCache` runs, and only then, what transformers' attention interface hands out is wrapped.

    Args:
        model: a transformers decoder-only model, with or without a language-model head, or the text part of a
            vision-language model; or a PEFT model around one.

    Returns:
        The same model.

    Raises:
        InputError: not a transformers model.
        UnsupportedError: an encoder-decoder or bidirectional model, one whose attention does not go through
            transformers' interface, or a transformers that changed what lavakv relies on.
    """
    base, decoder = unwrapped(model), decoder_of(model)
    if _RECORD not in decoder.__dict__:
        _check_causal(decoder)
        if not getattr(decoder, "_can_set_attn_implementation", lambda: True)():
            raise _outside_interface(decoder)
        check_contract(decoder)
        replaced = _replace_attention_without_softcap(decoder)
        decoder.__dict__[_RECORD] = _Enabled(watch_decoder(decoder), replaced)
    if base is not decoder and _RECORD not in base.__dict__:
        base.__dict__[_RECORD] = _Enabled(watch_model(base))
    enabled_decoders.add(decoder)
    guard_adapter(model)
    guard_generate(base)
    guard_decoding(base)
    return model


def disable(model: Model) -> Model:
    """Undo `enable`: no hooks, nothing left behind. Does nothing to a model that is not enabled."""
    base, decoder = unwrapped(model), decoder_of(model)
    unguard_adapter(model)
    for module in dict.fromkeys((base, decoder)):
        record: _Enabled | None = module.__dict__.pop(_RECORD, None)
        if record is not None:
            for hook in record.hooks:
                hook.remove()
            interface.forget(id(module))
            unguard_decoding(module)
            if record.replaced_attention is not None:
                decoder.set_attn_implementation(record.replaced_attention)
    enabled_decoders.discard(decoder)
    unguard_generate(base)
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
    check_decoder(model.config)
    decoder = model.get_decoder()
    return decoder if isinstance(decoder, PreTrainedModel) else model


def _check_causal(decoder: PreTrainedModel) -> None:
    """Raise UnsupportedError where no attention of a model is causal: every token would see those after it."""
    causal = [module.is_causal for module in decoder.modules() if isinstance(getattr(module, "is_causal", None), bool)]
    if causal and not any(causal):
        raise UnsupportedError(
            f"model {decoder.config.model_type!r}",
            expected="causal attention",
            got="a bidirectional model",
            fix="It reads its input at once and needs no cache; a decoder of this kind has `is_decoder=True`.",
        )


def _replace_attention_without_softcap(decoder: Any) -> str | None:
    """Older transformers run Gemma-2 with sdpa and drop its softcap; then eager attention is set instead."""
    softcap = getattr(decoder.config, "attn_logit_softcapping", None)
    if softcap is None or decoder.config._attn_implementation != "sdpa":
        return None
    warnings.warn(
        f"lavakv: sdpa attention drops the softcap of {decoder.config.model_type}; its dense attention runs as 'eager'",
        stacklevel=3,
    )
    decoder.set_attn_implementation("eager")
    return "sdpa"


def _outside_interface(decoder: Any) -> UnsupportedError:
    return UnsupportedError(
        f"model {decoder.config.model_type!r}",
        expected="attention that goes through transformers' AttentionInterface",
        got="attention of its own",
        fix="This architecture cannot be compressed.",
    )
