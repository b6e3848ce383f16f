"""A guard in front of `generate`: what a `LavaCache` cannot serve is refused before anything runs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lavakv.errors import InputError, UnsupportedError
from lavakv.hf import interface
from lavakv.hf.adapters import check_generate_adapter
from lavakv.hf.cache import LavaCache

_NO_SPECULATION = "no speculative decoding"
_REFUSED = {
    "num_beams": (1, "one beam"),
    "prompt_lookup_num_tokens": (None, _NO_SPECULATION),
    "assistant_early_exit": (None, _NO_SPECULATION),
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
            _check_options(self.__self__, args, kwargs)
            check_generate_adapter(self.__self__, cache)
            _check_continuation(self.__self__, cache, args, kwargs)
            asked = _option("max_new_tokens", self.__self__, args, kwargs)
            cache.note_announced(asked if isinstance(asked, int) else 0)
            _announce_chunks(self.__self__, cache, args, kwargs)
        try:
            return self.__wrapped__(*args, **kwargs)
        except KeyboardInterrupt:  # no hook runs after one
            interface.forget(id(cache))
            raise
        finally:
            if cache is not None:
                cache.forget_expected()

    @property
    def __wrapped__(self) -> Any:
        """The unguarded `generate`, by which signature and documentation are found."""
        model = self.__self__
        return type(model).generate.__get__(model) if self.replaced is None else self.replaced


def guard_generate(model: Any) -> None:
    """Put the guard on this model object."""
    own = model.__dict__.get("generate")
    if hasattr(type(model), "generate") and not isinstance(own, GuardedGenerate):
        model.generate = GuardedGenerate(model, own)


def unguard_generate(model: Any) -> None:
    """Take the guard away; a `generate` that was set on the object before comes back."""
    own = model.__dict__.get("generate")
    if isinstance(own, GuardedGenerate):
        del model.generate
        if own.replaced is not None:
            model.generate = own.replaced


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
    if kwargs.get("assistant_model") is not None:
        raise UnsupportedError(
            "assistant_model", expected=_NO_SPECULATION, got="an assistant", fix="Leave it out with a LavaCache."
        )


def _announce_chunks(model: Any, cache: LavaCache, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A prompt that `generate` sends in chunks is held whole until its last one; the cache may evict after each."""
    if _option("prefill_chunk_size", model, args, kwargs) is None:
        return
    sent = kwargs.get("inputs_embeds")
    sent = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None)) if sent is None else sent
    if cache.evicts_turns:
        cache.check_chunks()
    elif isinstance(sent, Tensor) and not cache.get_seq_length():
        cache.expect_prompt(sent.shape[1])


def _check_continuation(model: Any, cache: LavaCache, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A further turn is the whole text again, or new ids under a mask of all columns (as `generate` takes them)."""
    held, embeddings = cache.get_seq_length(), kwargs.get("inputs_embeds")
    ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
    sent = ids if embeddings is None else embeddings
    if not held or not isinstance(sent, Tensor):
        return
    mask, count = kwargs.get("attention_mask"), sent.shape[1]
    mask_length = count if mask is None else mask.shape[-1]
    if mask_length == count > held:
        copies = _option("num_return_sequences", model, args, kwargs) or 1
        rows, seen = sent.repeat_interleave(copies, 0), mask if mask is None else mask.repeat_interleave(copies, 0)
        cache.check_continues(rows, seen if seen is None or seen.ndim == 2 else None, model.get_input_embeddings())
    elif embeddings is not None or mask_length != held + count:
        raise InputError(
            "input_ids" if embeddings is None else "inputs_embeds",
            expected=f"the whole text, more than the {held} columns the cache holds"
            + (", or a mask of all columns" if embeddings is None else ""),
            got=f"{count} columns and {'no mask' if mask is None else f'a mask of {mask_length}'}",
            fix="Pass the text from its start, or new ids with a mask of the old and the new columns; "
            "another text needs a new LavaCache.",
        )
