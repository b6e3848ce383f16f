"""What `generate` decodes with, and what a loop of one's own may call in place of the model."""

from __future__ import annotations

import threading
from typing import Any

from torch import nn

from lavakv.errors import NotEnabledError
from lavakv.hf.adapters import unwrapped
from lavakv.hf.cache import LavaCache
from lavakv.hf.graph.backend import backend_for
from lavakv.hf.graph.decoding import decode
from lavakv.hf.graph.model_watch import ModelWatch
from lavakv.hf.method import ReplacedMethod, set_methods, take_methods

_WATCH = "_lavakv_watch"
_asked = threading.local()  # `model`: id of the one whose `generate` asks next for what it decodes with


class DecodeCall:
    """Called like a model. One new token on a filled `LavaCache` is decoded by a graph where that is possible.

    Args:
        model: an enabled model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._watch: ModelWatch = unwrapped(model).__dict__[_WATCH]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What `model(*args, **kwargs)` returns."""
        cache = None if args else next((value for value in kwargs.values() if type(value) is LavaCache), None)
        output = None if cache is None else decode(cache, self._model, kwargs, self._watch)
        return self._model(*args, **kwargs) if output is None else output


def graphed(model: nn.Module) -> DecodeCall:
    """Make what a decoding loop of one's own calls in place of an enabled model; `generate` needs no such call.

    One new token a sequence, passed by keyword as `input_ids=` with a filled `LavaCache`, replays a graph on a CUDA
    device; all else, and whatever cannot be captured, goes to the model. Returns are the same.

    Args:
        model: an enabled model, or a PEFT model around one.

    Returns:
        A callable with the arguments of the model's forward.

    Raises:
        NotEnabledError: lavakv is not enabled on the model.
    """
    if _WATCH not in unwrapped(model).__dict__:
        raise NotEnabledError(
            "model", expected="a model that lavakv is enabled on", got=type(model).__name__,
            fix="Call `lavakv.enable(model)` first.",
        )  # fmt: skip
    return DecodeCall(model)


class _Criteria(ReplacedMethod):
    """Whether `generate` decodes with something else than the model; it then asks at once for what."""

    name = "_valid_auto_compile_criteria"

    def __call__(self, model_kwargs: dict[str, Any], generation_config: Any) -> Any:
        model = self.__self__
        caches = [value for value in model_kwargs.values() if type(value) is LavaCache]
        if caches and caches[0].graph and backend_for(model.device) is not None:
            model.__dict__[_WATCH].refresh()
            _asked.model = id(model)
            return True
        return self.__wrapped__(model_kwargs, generation_config)


class _CompiledCall(ReplacedMethod):
    """What `generate` decodes with."""

    name = "get_compiled_call"

    def __call__(self, compile_config: Any) -> Any:
        asked, _asked.model = getattr(_asked, "model", None), None
        return DecodeCall(self.__self__) if asked == id(self.__self__) else self.__wrapped__(compile_config)


_METHODS = (_Criteria, _CompiledCall)


def guard_decoding(model: Any) -> None:
    """Let an enabled model decode by graphs."""
    model.__dict__.setdefault(_WATCH, ModelWatch(model))
    set_methods(model, _METHODS)


def unguard_decoding(model: Any) -> None:
    """Undo `guard_decoding`."""
    model.__dict__.pop(_WATCH, None)
    take_methods(model, _METHODS)
