"""What lavakv relies on in transformers, checked before a model is enabled."""

from __future__ import annotations

import inspect
from functools import lru_cache, partial
from typing import Any

from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lavakv.hf import interface
from lavakv.hf.adapters import unwrapped
from lavakv.hf.layer import LavaLayer
from lavakv.hf.versions import changed

CACHE_NAMES = ("cache", "past_key_values")
_CACHE_METHODS = ("update", "get_seq_length", "get_mask_sizes")


def check_contract(decoder: Any) -> None:
    """Check all that lavakv relies on, so that a change in transformers shows here and not in an answer.

    Args:
        decoder: the module whose forwards are watched.

    Raises:
        UnsupportedError: something is not as in the versions lavakv knows; the message says what, and which these are.
    """
    cache_name(decoder)
    missing = [name for name in _CACHE_METHODS if not hasattr(Cache, name)]
    if missing:
        raise changed("Cache", f"the methods {', '.join(_CACHE_METHODS)}", f"none called {', '.join(missing)}")
    abstract = sorted(getattr(LavaLayer, "__abstractmethods__", ()))
    if abstract:
        raise changed("CacheLayerMixin", "no methods but those lavakv has", f"new ones: {', '.join(abstract)}")
    _check_interfaces()


def cache_name(module: Any) -> str:
    """The keyword by which a module's forward takes a cache.

    Raises:
        UnsupportedError: none that lavakv knows.
    """
    parameters = _parameters(type(unwrapped(module)).forward)  # a forward of the object's own may hold the object
    for name in CACHE_NAMES:
        if name in parameters:
            return name
    raise changed(
        f"{type(module).__name__}.forward", f"a cache called {' or '.join(CACHE_NAMES)}",
        f"the parameters {', '.join(parameters)}",
    )  # fmt: skip


@lru_cache(maxsize=64)
def _parameters(forward: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(forward).parameters)


def cache_argument(model: Any, cache: Any) -> dict[str, Any]:
    """The keyword argument by which a model's forward and its `generate` take a cache."""
    return {cache_name(model): cache}


def _check_interfaces() -> None:
    """Hand a probe through both interfaces, as a layer does, and see whether it comes to lavakv."""
    token = object()
    try:
        interface.start(token, _PROBE)
        found = ALL_ATTENTION_FUNCTIONS.get_interface("eager", _probe)
        mask = AttentionMaskInterface()["eager"]
    except (AttributeError, TypeError, KeyError) as error:
        raise changed(
            "the attention interface", f"{AttentionInterface.__name__}.get_interface(name, default) and masks by name",
            f"{type(error).__name__}: {error}",
        ) from error  # fmt: skip
    finally:
        interface.stop(token)
    if not (_passes(found, _PROBE.attention) and _passes(mask, _PROBE.mask)):
        raise changed("the attention interface", "its functions to come through get_interface", "others")


def _passes(found: Any, through: Any) -> bool:
    """Whether a function that an interface hands out passes through an interceptor, perhaps among others."""
    while isinstance(found, partial):
        if found.func is through:
            return True
        found = found.args[0]
    return False


def _probe(*_: Any, **__: Any) -> None:
    """A function that is never called."""


_PROBE = interface.Interceptor(lambda *_: None, lambda *_: None)
