"""PEFT models: the transformers model inside, and the kinds of adapter that a `LavaCache` cannot serve.

Nothing here imports PEFT. Adapters inside the layers (LoRA and its relatives) need no care but that of `projection.py`.
Those that learn virtual tokens change what the model is given: before a text that is right, elsewhere it is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedModel

from lavakv.errors import UnsupportedError
from lavakv.hf.cache import LavaCache

_GUARD = "_lavakv_adapter_guard"
_OWN_CACHE = {"PREFIX_TUNING", "CARTRIDGE"}


def unwrapped(model: Any) -> Any:
    """The transformers model inside a PEFT model; anything else as it is."""
    if isinstance(model, PreTrainedModel) or not hasattr(model, "peft_config"):
        return model
    if hasattr(model, "get_base_model"):
        return model.get_base_model()
    return getattr(model.base_model, "model", model)  # several kinds of adapter at once


def guard_adapter(model: Any) -> None:
    """Watch a PEFT model's own forwards, where it may replace or prolong what it is given; idempotent."""
    if unwrapped(model) is not model and _GUARD not in model.__dict__:
        model.__dict__[_GUARD] = model.register_forward_pre_hook(_before_adapter, with_kwargs=True)


def unguard_adapter(model: Any) -> None:
    """Undo `guard_adapter`."""
    guard = model.__dict__.pop(_GUARD, None)
    if guard is not None:
        guard.remove()


def check_generate_adapter(model: Any, cache: LavaCache) -> None:
    """Check that a cache can serve the adapter whose `generate` calls that of the transformers model inside.

    Raises:
        UnsupportedError: see `_check`; or virtual tokens under a transformers whose cache argument PEFT does not know.
    """
    prepare = model.prepare_inputs_for_generation
    owner = getattr(prepare, "__self__", model)
    if owner is model:
        return
    _check(owner, cache)
    is_renamed = "past_key_values" not in inspect.signature(type(model).forward).parameters
    if _virtual_tokens(owner) and is_renamed and "cache" not in _constants(prepare.__func__.__code__):
        raise UnsupportedError(
            f"adapter {_kind(owner)}",
            expected="a PEFT that knows the argument `cache`, as transformers has renamed `past_key_values`",
            got="one that looks for the old name, and puts its virtual tokens before every new token",
            fix="Install a newer PEFT, or transformers before 5.24; the text is wrong without lavakv as well.",
        )


def _before_adapter(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    cache = next((value for value in (*args, *kwargs.values()) if isinstance(value, LavaCache)), None)
    if cache is not None and not getattr(model, "_adapters_disabled", False):
        _check(model, cache)


def _check(model: Any, cache: LavaCache) -> None:
    """Refuse adapters of virtual tokens wherever they would not simply come before an empty cache's text."""
    if not _virtual_tokens(model):
        return
    if _kind(model) in _OWN_CACHE:
        raise UnsupportedError(
            f"adapter {_kind(model)}",
            expected="an adapter that leaves the cache to the caller",
            got="one that puts a cache of its own, which holds its prefix, in its place",
            fix="Use transformers' own caches with it, or another kind of adapter with a LavaCache.",
        )
    if cache.get_seq_length():
        raise UnsupportedError(
            f"adapter {_kind(model)}",
            expected="an empty cache, as the adapter puts its virtual tokens before whatever it is given",
            got=f"one that holds {cache.get_seq_length()} columns",
            fix="Send the whole text to a new cache, or go on with `model.get_base_model()`.",
        )


def _virtual_tokens(model: Any) -> bool:
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


def _kind(model: Any) -> str:
    kind = getattr(model.active_peft_config, "peft_type", "of unknown kind")
    return str(getattr(kind, "value", kind))


def _constants(code: Any) -> Iterator[object]:
    """All constants of a function, those of its inner ones and of tuples included."""
    for constant in code.co_consts:
        yield from constant if isinstance(constant, tuple) else (constant,)
        if inspect.iscode(constant):
            yield from _constants(constant)
