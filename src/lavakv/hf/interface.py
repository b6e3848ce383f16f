"""Where lavakv stands between a model and transformers' attention: only while a forward with its cache is under way.

transformers compares the names of attention implementations in several places, so no name changes and nothing is
registered: what its two interfaces hand out is wrapped instead, and only from the start of such a forward to its end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple

from transformers import AttentionInterface, AttentionMaskInterface

_lock = threading.Lock()
_active: dict[Hashable, Interceptor] = {}
_interceptors: tuple[Interceptor, ...] = ()  # of all that are active, each once
_replaced: list[tuple[type, str, Any]] = []
_MISSING = object()


class Interceptor(NamedTuple):
    """What is called in place of the functions that transformers' interfaces hand out.

    Attributes:
        attention: called as `attention(delegate, module, query, key, value, attention_mask, **kwargs)`.
        mask: called as `mask(delegate, **kwargs)`, or None to leave mask functions alone.
    """

    attention: Callable[..., Any]
    mask: Callable[..., Any] | None = None


class Token(NamedTuple):
    """A forward under way: `id` of its module and its cache, and the thread it runs in."""

    module: int
    cache: int
    thread: int


def start(token: Hashable, interceptor: Interceptor) -> None:
    """Wrap what the interfaces hand out until `stop(token)`; functions pass through several interceptors in turn."""
    with _lock:
        _drop([other for other in _active if _same_place(other, token)])  # what an interrupted forward left behind
        if not _active:
            _replace(AttentionInterface, "get_interface", _wrapped_interface(AttentionInterface.get_interface))
            _replace(AttentionMaskInterface, "__getitem__", _wrapped_mask(AttentionMaskInterface.__getitem__))
        _active[token] = interceptor
        _update()


def stop(token: Hashable) -> None:
    """End what `start(token)` began; does nothing if it did not."""
    with _lock:
        _drop([token])


def forget(owner: int) -> None:
    """End whatever began for a module or a cache, by its `id`: an interrupt from the keyboard lets no hook run."""
    with _lock:
        _drop([token for token in _active if isinstance(token, Token) and owner in (token.module, token.cache)])


def _same_place(one: Hashable, other: Hashable) -> bool:
    """Are two tokens of the same module's forwards in the same thread? Those do not nest."""
    if not isinstance(one, Token) or not isinstance(other, Token):
        return False
    return (one.module, one.thread) == (other.module, other.thread)


def _drop(tokens: list[Hashable]) -> None:
    found = [_active.pop(token) for token in tokens if token in _active]
    if found and not _active:
        while _replaced:
            owner, name, before = _replaced.pop()
            if before is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
    _update()


def _update() -> None:
    global _interceptors
    _interceptors = tuple(dict.fromkeys(_active.values()))


def _replace(owner: type, name: str, method: Callable[..., Any]) -> None:
    _replaced.append((owner, name, owner.__dict__.get(name, _MISSING)))
    setattr(owner, name, method)


def _wrapped_interface(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_interface(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(self, *args, **kwargs)
        for interceptor in _interceptors:
            found = partial(interceptor.attention, found)
        return found

    return get_interface


def _wrapped_mask(original: Callable[..., Any]) -> Callable[..., Any]:
    def __getitem__(self: Any, key: str) -> Any:  # noqa: N807
        found = original(self, key)
        for interceptor in _interceptors:
            found = found if interceptor.mask is None else partial(interceptor.mask, found)
        return found

    return __getitem__
