"""A guard in front of `generate`: what a `LavaCache` cannot serve is refused before anything runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor

from lavakv.errors import CacheStateError, InputError, UnsupportedError
from lavakv.hf import interface
from lavakv.hf.adapters import check_generate_adapter
from lavakv.hf.cache import LavaCache
from lavakv.hf.speculation import check_speculation, guard_speculation, speculation, unguard_speculation

_REFUSED = {
    "use_cache": (True, "a forward that uses the cache"),
}


class GuardedGenerate:
    """`generate` of an enabled model, set on the model object; copied and pickled with it.

    Args:
        model: the model.
        replaced: a `generate` that was set on the object before, or None for its class's own.
    """

    def __init__(self, model: Any, replaced: Any = None) -> None:
        self.__self__, self.replaced = model, replaced

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse what a LavaCache does not support, then generate as usual."""
        cache = next((value for value in kwargs.values() if isinstance(value, LavaCache)), None)
        if cache is not None:
            cache.require_sound()
            cache.require_no_chunks_to_come()
            _check_options(self.__self__, args, kwargs)
            check_generate_adapter(self.__self__, cache)
            _check_continuation(self.__self__, cache, args, kwargs)
            announced = _num_announced(self.__self__, args, kwargs)
            cache.note_announced(announced)
            cache.decode_graph.expect(announced or None)
            _announce_chunks(self.__self__, cache, args, kwargs)
        try:
            with _prepared(self.__self__, cache, args, kwargs):
                return self.__wrapped__(*args, **kwargs)
        except KeyboardInterrupt:  # no hook runs after one
            interface.forget(id(cache))
            raise
        finally:
            if cache is not None:
                cache.forget_expected()
                cache.decode_graph.expect(None)
                cache.whole_text_follows = False  # a call that stopped before its second round of drafts

    @property
    def __wrapped__(self) -> Any:
        """The unguarded `generate`, by which signature and documentation are found."""
        model = self.__self__
        return type(model).generate.__get__(model) if self.replaced is None else self.replaced


@contextmanager
def _prepared(model: Any, cache: LavaCache | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
    """Give a filled cache as many sequences as a call makes of its rows, and end what speculation has recorded."""
    copies, sent = _num_copies(model, args, kwargs), _sent(args, kwargs)
    if cache is None or not isinstance(sent, Tensor):
        yield
        return
    seen, recording = cache.get_seq_length(), cache.is_recording
    expanded = copies > 1 and cache.batch_size == sent.shape[0]
    if expanded:
        cache.expand(copies)
    try:
        yield
    except BaseException:
        with suppress(CacheStateError):  # stopped inside a forward: only a reset serves then
            if expanded and cache.get_seq_length() == seen and cache.batch_size == copies * sent.shape[0]:
                cache.select(range(0, cache.batch_size, copies))  # nothing was read
            if not recording:
                _stop_recording(cache)
        raise
    if not recording:
        _stop_recording(cache)


def _stop_recording(cache: LavaCache) -> None:
    """Let a cache evict again whose drafts are at their end."""
    if cache.is_recording:
        cache.stop_recording()


def guard_generate(model: Any) -> None:
    """Put the guard on this model object."""
    own = model.__dict__.get("generate")
    if hasattr(type(model), "generate") and not isinstance(own, GuardedGenerate):
        model.generate = GuardedGenerate(model, own)
        guard_speculation(model)


def unguard_generate(model: Any) -> None:
    """Take the guard away; a `generate` that was set on the object before comes back."""
    own = model.__dict__.get("generate")
    if isinstance(own, GuardedGenerate):
        del model.generate
        if own.replaced is not None:
            model.generate = own.replaced
        unguard_speculation(model)


def _option(name: str, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An option of `generate`: from the call, its generation config, or the model's; None if nobody gave it."""
    given = kwargs.get("generation_config") or (args[1] if len(args) > 1 else None)
    places = (kwargs.get(name), getattr(given, name, None), getattr(model.generation_config, name, None))
    return next((value for value in places if value is not None), None)


def _check_options(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for option, (allowed, expected) in _REFUSED.items():
        got = _option(option, model, args, kwargs)
        if got not in (None, allowed):
            raise UnsupportedError(option, expected=expected, got=repr(got), fix="Leave it out with a LavaCache.")


def _sent(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a call of `generate` brings: ids `[B, m]` or embeddings `[B, m, hidden]`."""
    embeddings = kwargs.get("inputs_embeds")
    ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
    return ids if embeddings is None else embeddings


def _num_announced(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """New tokens that a call of `generate` may add; 0 where it does not say."""
    added, length = (_option(name, model, args, kwargs) for name in ("max_new_tokens", "max_length"))
    if isinstance(added, int):
        return added
    sent = _sent(args, kwargs)
    stated = isinstance(length, int) and isinstance(sent, Tensor) and sent.ndim > 1
    return max(length - sent.shape[1], 0) if stated else 0


def _num_copies(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Sequences that a call of `generate` makes of each row."""
    asked = (_option(name, model, args, kwargs) for name in ("num_beams", "num_return_sequences"))
    return max([1, *(value for value in asked if isinstance(value, int))])


def chunks_go_on(model_class: Any) -> bool:
    """Whether chunks of a text begin where a filled cache ends; older transformers take all of it for new."""
    return "prefill_ids" in inspect.getsource(model_class._prefill)


def _announce_chunks(model: Any, cache: LavaCache, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A prompt that `generate` sends in chunks is held whole until its last one; the cache may evict after each."""
    if _option("prefill_chunk_size", model, args, kwargs) is None:
        return
    sent, held = _sent(args, kwargs), cache.get_seq_length()
    if held and not chunks_go_on(type(model)):
        raise UnsupportedError(
            "prefill_chunk_size", expected="an empty cache: this transformers sends a text from its start in chunks",
            got=f"one that holds {held} columns", fix="Leave it out here, or use transformers 5.23 or newer.",
        )  # fmt: skip
    if cache.evicts_turns:
        cache.check_chunks()
    elif isinstance(sent, Tensor) and not held:
        cache.expect_prompt(sent.shape[1])


def _check_continuation(model: Any, cache: LavaCache, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A further turn is the whole text again, or new ids under a mask of all columns (as `generate` takes them)."""
    held, embeddings, sent = cache.get_seq_length(), kwargs.get("inputs_embeds"), _sent(args, kwargs)
    name = speculation(lambda option: _option(option, model, args, kwargs), kwargs)
    if name is not None:
        check_speculation(model, cache, name, kwargs)
    if not held or not isinstance(sent, Tensor):
        return
    mask, count = kwargs.get("attention_mask"), sent.shape[1]
    mask_length = count if mask is None else mask.shape[-1]
    if mask_length == count > held:
        copies = _num_copies(model, args, kwargs)
        if cache.batch_size != sent.shape[0] and copies > 1:
            sent, mask = sent.repeat_interleave(copies, 0), mask if mask is None else mask.repeat_interleave(copies, 0)
        cache.check_continues(sent, mask if mask is None or mask.ndim == 2 else None, model.get_input_embeddings())
    elif name is not None and embeddings is None:
        raise UnsupportedError(
            name, expected="the whole text, what the cache holds included", got=f"the {count} new tokens alone",
            fix="Pass the text from its start.",
        )  # fmt: skip
    elif embeddings is not None or mask_length != held + count:
        raise InputError(
            "input_ids" if embeddings is None else "inputs_embeds",
            expected=f"the whole text, more than the {held} columns the cache holds"
            + (", or a mask of all columns" if embeddings is None else ""),
            got=f"{count} columns and {'no mask' if mask is None else f'a mask of {mask_length}'}",
            fix="Pass the text from its start, or new ids with a mask of the old and the new columns; "
            "another text needs a new LavaCache.",
        )
