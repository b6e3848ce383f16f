"""Tokens and masks that cannot be worked on, and questions asked too early; the cache is unchanged after each."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import lavakv
from lavakv import CacheMismatchError, CacheStateError, InputError
from tests.hf import zoo
from tests.hf.helpers import (
    assert_like_new,
    assert_same_contents,
    contents,
    feed,
    lava_cache,
    refuses,
    split,
)

KINDS = ["llama", "gemma3_text", "qwen3_next"]
CHUNKS = split(zoo.prompt(44), [40, 1, 3])


def _mask(*zeros: int, batch: int = 1) -> Tensor:
    mask = torch.ones(batch, 40, dtype=torch.long)
    mask[-1, list(zeros)] = 0
    return mask


BAD_PROMPTS = {
    "right padding": (CHUNKS[0], _mask(38, 39), "attention_mask", "behind or between"),
    "hole": (CHUNKS[0], _mask(20), "attention_mask", "behind or between"),
    "left padding and a hole": (CHUNKS[0], _mask(0, 1, 7), "attention_mask", "behind or between"),
    "only padding": (CHUNKS[0], _mask(*range(40)), "input_ids", "empty prompt"),
    "a row of padding": (zoo.prompt(40, batch=2), _mask(*range(40), batch=2), "input_ids", "empty prompt"),
    "no tokens": (CHUNKS[0][:, :0], None, "input_ids", "empty prompt"),
    "no tokens under a mask": (CHUNKS[0][:, :0], _mask(), "input_ids", "empty prompt"),
    "mask of another batch": (CHUNKS[0], _mask(batch=3), "attention_mask", "(3, 40)"),
    "mask too short": (CHUNKS[0], _mask()[:, :39], "attention_mask", "(1, 39)"),
    "too many tokens": (zoo.prompt(513), None, "input_ids", "513"),
}


@pytest.mark.parametrize("name", BAD_PROMPTS)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_prompts(kind: str, name: str) -> None:
    ids, mask, argument, got = BAD_PROMPTS[name]
    model = lavakv.enable(zoo.tiny(kind))
    cache = lava_cache(model)
    with refuses(InputError, argument, got), torch.no_grad():
        model(ids, attention_mask=mask, past_key_values=cache)
    assert_like_new(model, cache, lava_cache(model))


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_mask_with_four_axes_that_ends_in_a_hole(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    cache, mask = lava_cache(model), torch.ones(1, 1, 40, 40, dtype=torch.bool).tril()
    mask[..., 20] = False
    with refuses(InputError, "attention_mask", "behind or between"):
        feed(model, cache, CHUNKS[:1], attention_mask={"full_attention": mask, "sliding_attention": mask})
    assert_like_new(model, cache, lava_cache(model))


BAD_APPENDS: dict[str, tuple[Callable[[], Tensor], type[lavakv.LavaError], str]] = {
    "another batch": (lambda: zoo.prompt(2, batch=2), CacheMismatchError, "2"),
    "no tokens": (lambda: zoo.prompt(2)[:, :0], InputError, "empty"),
    "too many tokens": (lambda: zoo.prompt(480), InputError, "520"),
}


@pytest.mark.parametrize("name", BAD_APPENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_appends(kind: str, name: str) -> None:
    make, error, got = BAD_APPENDS[name]
    model = lavakv.enable(zoo.tiny(kind))
    cache, expected = lava_cache(model), feed(model, lava_cache(model), CHUNKS)
    feed(model, cache, CHUNKS[:1])
    before = contents(cache)
    with refuses(error, "input_ids", got):
        feed(model, cache, [make()])
    assert_same_contents(before, cache)
    assert feed(model, cache, CHUNKS[1:]).equal(expected[:, 1:])


def test_neither_ids_nor_embeddings() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    with refuses(InputError, "input_ids", "neither"):
        model(past_key_values=cache)
    assert_like_new(model, cache, lava_cache(model))


def test_as_many_tokens_as_positions_is_fine() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, split(zoo.prompt(512), [500, 12]))
    assert cache.get_seq_length() == 512


QUESTIONS = {
    "lengths": lambda cache: cache.lengths(),
    "budgets": lambda cache: cache.budgets(),
    "kept_positions": lambda cache: cache.kept_positions(1, 0, 0),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_questions_before_a_prompt(question: Callable[[lavakv.LavaCache], object]) -> None:
    model = lavakv.enable(zoo.tiny("gemma3_text"))
    cache = lava_cache(model)
    with refuses(CacheStateError, "cache", "empty"):
        question(cache)
    assert cache.get_seq_length() == cache.nbytes == 0
    feed(model, cache, CHUNKS[:1])
    question(cache)
    cache.reset()
    with refuses(CacheStateError, "cache", "empty"):
        question(cache)


@pytest.mark.parametrize("place", [(0, 0, 0), (6, 0, 0), (-1, 0, 0), (1, 1, 0), (1, -1, 0), (1, 0, 2), (1, 0, -1)])
def test_kept_positions_of_what_is_not_there(place: tuple[int, int, int]) -> None:
    """Layer 0 of Gemma-3 is a sliding one."""
    model = lavakv.enable(zoo.tiny("gemma3_text"))
    cache = lava_cache(model)
    feed(model, cache, CHUNKS[:1])
    with refuses(InputError, "layer, batch, head", ", ".join(map(str, place))):
        cache.kept_positions(*place)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_whose_dtype_changes_in_the_middle_is_refused_and_the_cache_stays(dtype: torch.dtype) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache, later = lava_cache(model), zoo.prompt(4, seed=2)
    feed(model, cache, [zoo.prompt(50)])
    twin, before = copy.deepcopy(cache), contents(cache)
    model.to(dtype)
    with refuses(CacheMismatchError, "cache", str(dtype)):
        feed(model, cache, [later])
    assert_same_contents(before, cache)
    model.to(torch.float32)
    assert feed(model, cache, [later]).equal(feed(model, twin, [later]))
