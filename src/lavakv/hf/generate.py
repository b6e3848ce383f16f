"""A guard in front of `generate`: its options that a `LavaCache` cannot serve are refused before anything runs."""

from __future__ import annotations

from types import MethodType
from typing import Any

from lavakv.errors import UnsupportedError
from lavakv.hf.cache import LavaCache

_REFUSED = {
    "prefill_chunk_size": (None, "the whole prompt in one forward (the first chunk would be taken for the prompt)"),
    "num_beams": (1, "one beam"),
    "prompt_lookup_num_tokens": (None, "no speculative decoding"),
    "assistant_early_exit": (None, "no speculative decoding"),
    "use_cache": (True, "True (without, every step would put the whole text on top of what the cache holds)"),
}


def guard_generate(model: Any) -> None:
    """Put the guard on this model object; a bound method, so that a deep copy of the model gets one of its own."""
    if hasattr(type(model), "generate"):
        model.generate = MethodType(_guarded_generate, model)


def unguard_generate(model: Any) -> None:
    """Take the guard away."""
    model.__dict__.pop("generate", None)


def _guarded_generate(self: Any, *args: Any, **kwargs: Any) -> Any:
    """`generate` of an enabled model: refuses what a LavaCache does not support, then runs as ever."""
    if isinstance(kwargs.get("past_key_values"), LavaCache):
        config = kwargs.get("generation_config") or (args[1] if len(args) > 1 else None) or self.generation_config
        for option, (allowed, expected) in _REFUSED.items():
            got = kwargs.get(option, getattr(config, option, allowed))
            if got is not None and got != allowed:
                raise UnsupportedError(option, expected=expected, got=repr(got), fix="Leave it out with a LavaCache.")
        if kwargs.get("assistant_model") is not None:
            raise UnsupportedError(
                "assistant_model",
                expected="no speculative decoding",
                got="an assistant",
                fix="Leave it out with a LavaCache.",
            )
    return type(self).generate(self, *args, **kwargs)
