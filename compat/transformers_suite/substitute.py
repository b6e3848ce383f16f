"""Puts a `LavaCache` that evicts nothing where transformers would take its own `DynamicCache`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel

import lavakv
from lavakv.errors import LavaError
from lavakv.hf.contract import cache_argument
from transformers_suite.answers import compare, logits_of

BUDGET_TOKENS = 1 << 20  # above any test's prompt, so that every output must equal the stock cache's
# These keep state, so that a second run of the same call is not the same call.
_STATEFUL = ("streamer", "logits_processor", "stopping_criteria", "custom_generate", "prefix_allowed_tokens_fn")

# With a LavaCache the first round drafts nothing: other forwards, other random numbers, the same greedy tokens.
_DRAFTING = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")


class Use:
    """The use of our cache in one test.

    Attributes:
        caches: LavaCaches that took a DynamicCache's place.
        compared: outputs of `generate` that were compared with the stock cache's.
        stock: why the stock cache was left in place, in lavakv's words.
    """

    def __init__(self) -> None:
        self.caches = self.compared = 0
        self.stock: list[str] = []

    def note_stock(self, error: LavaError) -> None:
        """Record a refusal that left the stock cache in place."""
        text = f"{type(error).__name__}: {error.argument}: got {error.got}"
        if text not in self.stock:
            self.stock.append(text)


use = Use()
_local = threading.local()


@contextmanager
def _inside() -> Iterator[None]:
    """Suspend substitution: within a call that has its cache already."""
    before, _local.inside = _is_inside(), True
    try:
        yield
    finally:
        _local.inside = before


def _is_inside() -> bool:
    return getattr(_local, "inside", False) or torch.compiler.is_compiling()


def install() -> None:
    """Wrap `generate`, the calls of models, and `DynamicCache(config=...)`, for the life of the process."""
    stock_generate = GenerationMixin.generate
    GenerationMixin.generate = _method(_generate, stock_generate)
    PreTrainedModel.__call__ = _method(_call, nn.Module.__call__)
    DynamicCache.__new__ = _new_cache


def _method(wrapper: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """A method that calls `wrapper(original, self, ...)` at the outermost level, and looks like the original."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_inside():
            return original(self, *args, **kwargs)
        return wrapper(original, self, *args, **kwargs)

    method.__wrapped__ = original  # type: ignore[attr-defined]
    return method


def _new_cache(cls: Any, ddp_cache_data: Any = None, config: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Replace `DynamicCache(config=...)` in a test; calls with other arguments are left alone."""
    if cls is DynamicCache and config is not None and ddp_cache_data is None and not (args or kwargs):
        cache = None if _is_inside() else _lava_cache(config)
        if cache is not None:
            return cache
    return object.__new__(cls)


def _lava_cache(config: Any) -> lavakv.LavaCache | None:
    """A LavaCache for a model, or None with the reason noted."""
    try:
        with _inside():
            cache = lavakv.LavaCache(config, budget=BUDGET_TOKENS)
    except LavaError as error:
        use.note_stock(error)
        return None
    use.caches += 1
    return cache


def _cache_for(model: Any) -> dict[str, Any] | None:
    """A LavaCache under the model's name for it, the model enabled; None with the reason noted."""
    try:
        with _inside():
            lavakv.enable(model)
            argument = cache_argument(model, None)
    except LavaError as error:
        use.note_stock(error)
        return None
    cache = _lava_cache(model.config)
    return None if cache is None else dict.fromkeys(argument, cache)


def _caches(kwargs: dict[str, Any]) -> list[Any]:
    return [value for value in kwargs.values() if isinstance(value, Cache)]


def _call(original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    """A plain forward: it gets our cache if it asks for one, and its model is enabled if it brings ours."""
    given = _caches(kwargs)
    if any(isinstance(cache, lavakv.LavaCache) for cache in given):
        with _inside():
            lavakv.enable(model)
    elif kwargs.get("use_cache") and not given and not model.training and _takes_dynamic_cache(model):
        kwargs |= _cache_for(model) or {}
    with _inside():
        return original(model, *args, **kwargs)


def _generate(original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    """`generate`, with a LavaCache where it would make a DynamicCache; its output is compared."""
    given = _caches(kwargs)
    if any(isinstance(cache, lavakv.LavaCache) for cache in given):
        passed = "generate" in vars(model)  # the guard of an enabled model has accepted this cache
        with _inside():
            return (partial(original, model) if passed else _guarded(original, model))(*args, **kwargs)
    ours = _cache_for(model) if not given and _makes_dynamic_cache(model, args, kwargs) else None
    with _inside():
        if ours is None:
            return original(model, *args, **kwargs)
        before = torch.get_rng_state()
        with logits_of(model) as found:
            answer = _guarded(original, model)(*args, **kwargs, **ours)
        after = torch.get_rng_state()
        drafted = any(_option(name, model, args, kwargs) for name in _DRAFTING)
        again = not any(kwargs.get(name) for name in _STATEFUL)
        if again and not _has_own_generate(model) and not (drafted and _option("do_sample", model, args, kwargs)):
            torch.set_rng_state(before)
            with logits_of(model) as expected:
                stock = original(model, *args, **kwargs)
            torch.set_rng_state(after)
            use.compared += 1
            compare(_tokens(answer), _tokens(stock), *(([], []) if drafted else (found, expected)))
        return answer


def _guarded(original: Callable[..., Any], model: Any) -> Callable[..., Any]:
    """`generate` of the model, enabled, behind lavakv's guard.

    Unless its class has its own `generate`, which has processed the arguments already.
    """
    lavakv.enable(model)
    return partial(original, model) if _has_own_generate(model) else model.generate


def _has_own_generate(model: Any) -> bool:
    return type(model).generate is not GenerationMixin.generate


def _tokens(answer: Any) -> torch.Tensor:
    tokens: torch.Tensor = getattr(answer, "sequences", answer)
    return tokens


def _takes_dynamic_cache(model: Any) -> bool:
    """Whether a model is decoder-only and uses a DynamicCache."""
    supports = getattr(model, "_supports_default_dynamic_cache", lambda: True)
    return not model.config.is_encoder_decoder and bool(supports())


def _makes_dynamic_cache(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether `generate` would make a DynamicCache for a decoder-only model."""
    if not _takes_dynamic_cache(model):
        return False
    implementation = _option("cache_implementation", model, args, kwargs)
    return implementation in (None, "dynamic") and _option("use_cache", model, args, kwargs) is not False


def _option(name: str, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An option of `generate`, or None; from the call, its generation config, or the model's."""
    places = (kwargs.get("generation_config"), args[1] if len(args) > 1 else None, model.generation_config)
    values = (kwargs.get(name), *(getattr(place, name, None) for place in places))
    return next((value for value in values if value is not None), None)
