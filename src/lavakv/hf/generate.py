"""A guard in front of `generate`: its options that a `LavaCache` cannot serve are refused before anything runs."""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor

from lavakv.errors import InputError, UnsupportedError
from lavakv.hf.adapters import check_generate_adapter
from lavakv.hf.cache import LavaCache

_REPLACED = "_lavakv_replaced_generate"
_NO_SPECULATION = "no speculative decoding"
_REFUSED = {
    "prefill_chunk_size": (None, "the whole prompt in one forward (the first chunk would be taken for the prompt)"),
    "num_beams": (1, "one beam"),
    "prompt_lookup_num_tokens": (None, _NO_SPECULATION),
    "assistant_early_exit": (None, _NO_SPECULATION),
    "use_cache": (True, "a forward that uses the cache"),
}


def guard_generate(model: Any) -> None:
    """Put the guard on this model object; a bound method, so that a deep copy of the model gets one of its own."""
    own = model.__dict__.get("generate")
    if hasattr(type(model), "generate") and getattr(own, "__func__", None) is not _guarded_generate:
        if own is not None:
            model.__dict__[_REPLACED] = own
        model.generate = MethodType(_guarded_generate, model)


def unguard_generate(model: Any) -> None:
    """Take the guard away; a `generate` that was set on the object before comes back."""
    if getattr(model.__dict__.get("generate"), "__func__", None) is _guarded_generate:
        del model.generate
        if _REPLACED in model.__dict__:
            model.generate = model.__dict__.pop(_REPLACED)


def _guarded_generate(self: Any, *args: Any, **kwargs: Any) -> Any:
    """`generate` of an enabled model: refuses what a LavaCache does not support, then runs as ever."""
    cache = kwargs.get("past_key_values")
    if isinstance(cache, LavaCache):
        _check_options(self, args, kwargs)
        check_generate_adapter(self, cache)
        _check_continuation(cache, args, kwargs)
    replaced = self.__dict__.get(_REPLACED)
    return type(self).generate(self, *args, **kwargs) if replaced is None else replaced(*args, **kwargs)


def _check_options(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given = kwargs.get("generation_config") or (args[1] if len(args) > 1 else None)
    for option, (allowed, expected) in _REFUSED.items():
        places = (kwargs.get(option), getattr(given, option, None), getattr(model.generation_config, option, None))
        got = next((value for value in places if value is not None), allowed)
        if got != allowed:
            raise UnsupportedError(option, expected=expected, got=repr(got), fix="Leave it out with a LavaCache.")
    if kwargs.get("assistant_model") is not None:
        raise UnsupportedError(
            "assistant_model", expected=_NO_SPECULATION, got="an assistant", fix="Leave it out with a LavaCache."
        )


def _check_continuation(cache: LavaCache, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A further turn takes the whole text again, or new ids under a mask of all columns; else ids would be lost."""
    held = cache.get_seq_length()
    ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
    if not held or not isinstance(ids, Tensor) or ids.shape[1] > held:
        return
    mask = kwargs.get("attention_mask")
    if mask is None or mask.shape[1] != held + ids.shape[1]:
        raise InputError(
            "input_ids",
            expected=f"the whole text, more than the {held} columns the cache holds, or a mask of all columns",
            got=f"{ids.shape[1]} ids and {'no mask' if mask is None else f'a mask of {mask.shape[1]}'}",
            fix="Pass the text from its start, or new ids with a mask of the old and the new columns.",
        )
