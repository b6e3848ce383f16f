"""Assisted and prompt-lookup decoding with a `LavaCache`: eviction comes before the first draft.

transformers sends the first drafted tokens in one forward with the prompt, and all of a text whose beginning a cache
already holds. Here the first round drafts nothing, so that the prompt's own last queries judge what is kept, and it
sends only what the cache does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lavakv.errors import UnsupportedError
from lavakv.hf.cache import LavaCache
from lavakv.hf.croppable import check_no_recurrent_layers
from lavakv.hf.method import ReplacedMethod, set_methods, take_methods
from lavakv.hf.versions import changed

_OPTIONS = ("prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")


def speculation(option: Callable[[str], Any], kwargs: dict[str, Any]) -> str | None:
    """The option of a call of `generate` that has tokens drafted, or None.

    Args:
        option: value of an option, wherever it was given.
        kwargs: keyword arguments of the call.
    """
    if kwargs.get("assistant_model") is not None:
        return "assistant_model"
    return next((name for name in _OPTIONS if option(name)), None)


def check_speculation(model: Any, cache: LavaCache, name: str, kwargs: dict[str, Any]) -> None:
    """Refuse drafted tokens where they cannot be taken back, or not be kept apart from the prompt.

    Raises:
        UnsupportedError: a model with recurrent layers, a prompt as embeddings, or a transformers that lavakv does not
            know.
    """
    check_no_recurrent_layers(cache.layers, model.config, name)
    if kwargs.get("inputs_embeds") is not None:
        raise UnsupportedError(name, expected="token ids", got="inputs_embeds", fix="Pass input_ids.")
    if not all(hasattr(type(model), method.name) for method in _METHODS):
        raise changed("generate", "the methods " + ", ".join(method.name for method in _METHODS), "others")


class _CandidateGenerator(ReplacedMethod):
    """Makes what drafts tokens."""

    name = "_get_candidate_generator"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        generator, cache = self.__wrapped__(*args, **kwargs), _cache_in((kwargs.get("model_kwargs") or {}).values())
        if cache is not None:
            _draft_nothing_first(generator, cache)
        return generator


class _Inputs(ReplacedMethod):
    """Cuts the text to what a forward gets."""

    name = "prepare_inputs_for_generation"

    def __call__(self, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        cache = _cache_in(kwargs.values())
        if cache is not None and cache.whole_text_follows:
            cache.whole_text_follows = False
            if cache.get_seq_length():
                kwargs["next_sequence_length"] = input_ids.shape[1] - cache.get_seq_length()
        return self.__wrapped__(input_ids, *args, **kwargs)


_METHODS = (_CandidateGenerator, _Inputs)


def _cache_in(values: Iterable[Any]) -> LavaCache | None:
    return next((value for value in values if isinstance(value, LavaCache)), None)


def _draft_nothing_first(generator: Any, cache: LavaCache) -> None:
    """Let the first round of a generator end without a draft, and not count as a failed one."""
    draft = generator.get_candidates

    def get_candidates(input_ids: Any, **kwargs: Any) -> tuple[Any, None]:
        del generator.get_candidates
        length = getattr(generator, "num_assistant_tokens", None)
        if length is not None:
            generator.num_assistant_tokens = 1  # an assistant reads the prompt by drafting one token, which is dropped
        draft(input_ids, **kwargs)
        if length is not None:
            generator.num_assistant_tokens = length
        getattr(generator, "probs", []).clear()
        cache.whole_text_follows = True
        return input_ids, None

    def update_candidate_strategy(*_: Any, **__: Any) -> None:
        del generator.update_candidate_strategy

    generator.get_candidates, generator.update_candidate_strategy = get_candidates, update_candidate_strategy


def guard_speculation(model: Any) -> None:
    """Put the two methods on this model object."""
    set_methods(model, _METHODS)


def unguard_speculation(model: Any) -> None:
    """Take them away; what was set on the object before comes back."""
    take_methods(model, _METHODS)
