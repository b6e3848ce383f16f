"""Forwards that fail half-way: an unfinished prompt leaves an empty cache, an unfinished append one that refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest
import torch
from torch import nn

import lavakv
from lavakv import CacheStateError
from lavakv.hf.recorder import record
from tests.hf import zoo
from tests.hf.helpers import assert_like_new, feed, lava_cache, refuses, split

KINDS = ["llama", "gemma3_text", "gpt_oss", "qwen3_next", "gpt2"]
CHUNKS = split(zoo.prompt(44), [40, 1, 3])


class _DeliberateError(Exception):
    """Raised by a layer that was made to fail."""


@contextmanager
def _failing_layer(model: nn.Module, index: int, error: type[BaseException] = _DeliberateError) -> Iterator[None]:
    """One decoder layer raises after its attention, while earlier layers have done their work."""

    def fail(*_: object) -> NoReturn:
        raise error

    decoder = model.get_decoder()
    layer = (decoder.h if hasattr(decoder, "h") else decoder.layers)[index]
    hook = layer.register_forward_hook(fail)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_prompt_that_fails_leaves_an_empty_cache(kind: str, layer: int) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    cache = lava_cache(model)
    with _failing_layer(model, layer), pytest.raises(_DeliberateError):
        feed(model, cache, CHUNKS[:1])
    with refuses(CacheStateError, "cache", "empty"):
        cache.lengths()
    assert_like_new(model, cache, lava_cache(model))


@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_append_that_fails_makes_the_cache_refuse_until_reset(kind: str, layer: int) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    cache = lava_cache(model)
    feed(model, cache, CHUNKS[:1])
    with _failing_layer(model, layer), pytest.raises(_DeliberateError):
        feed(model, cache, CHUNKS[1:2])
    for _ in range(2):
        with refuses(CacheStateError, "cache", "half-way"):
            feed(model, cache, CHUNKS[2:])
    for question in (cache.lengths, cache.budgets, lambda: cache.kept_positions(1, 0, 0)):
        with refuses(CacheStateError, "cache", "half-way"):
            question()
    with refuses(CacheStateError, "cache", "half-way"):
        model.generate(torch.cat(CHUNKS, dim=1), past_key_values=cache, max_new_tokens=2)
    cache.reset()
    assert_like_new(model, cache, lava_cache(model))


@pytest.mark.parametrize("chunk", [0, 1])
def test_interrupted_forward_refuses_until_reset(chunk: int) -> None:
    """An interrupt is no `Exception`, and torch runs no hooks for it: the cache cannot tidy up but must refuse."""
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    if chunk:
        feed(model, cache, CHUNKS[:chunk])
    with _failing_layer(model, 1, KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        feed(model, cache, CHUNKS[chunk : chunk + 1])
    with refuses(CacheStateError, "cache", "half-way"):
        feed(model, cache, CHUNKS[2:])
    cache.reset()
    assert_like_new(model, cache, lava_cache(model))


def test_failure_of_one_cache_does_not_touch_another() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    sound, failing, expected = lava_cache(model), lava_cache(model), feed(model, lava_cache(model), CHUNKS)
    feed(model, sound, CHUNKS[:1])
    with _failing_layer(model, 1), pytest.raises(_DeliberateError):
        feed(model, failing, CHUNKS[:1])
    assert feed(model, sound, CHUNKS[1:]).equal(expected[:, 1:])


def test_head_that_fails_after_the_decoder_leaves_a_sound_cache() -> None:
    """The decoder finished, so the prompt is in; only its logits are lost."""
    model = lavakv.enable(zoo.tiny("llama"))
    cache, expected = lava_cache(model), feed(model, lava_cache(model), CHUNKS)

    def fail(*_: object) -> NoReturn:
        raise _DeliberateError

    hook = model.lm_head.register_forward_hook(fail)
    with pytest.raises(_DeliberateError):
        feed(model, cache, CHUNKS[:1])
    hook.remove()
    assert feed(model, cache, CHUNKS[1:]).equal(expected[:, 1:])


def test_same_cache_in_two_forwards_at_once() -> None:
    """A layer that runs the model again on the same cache, as a second thread might."""
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, CHUNKS[:1])
    refused: list[Exception] = []

    def again(*_: object) -> None:
        hook.remove()
        with pytest.raises(CacheStateError) as caught:
            feed(model, cache, CHUNKS[1:2])
        refused.append(caught.value)

    hook = model.model.layers[1].register_forward_hook(again)
    with refuses(CacheStateError, "cache", "half-way"):
        feed(model, cache, CHUNKS[1:2])
    assert len(refused) == 1
    cache.reset()
    assert_like_new(model, cache, lava_cache(model))


def test_a_recording_that_a_budget_refuses_leaves_the_cache_empty() -> None:
    """The budget is found wrong where the forward begins, before the recording has anything to close."""
    model, prompt = zoo.tiny("llama"), zoo.prompt(40)
    with lavakv.enabled(model):
        recording = record(model, prompt)
        cache = lavakv.LavaCache(model.config, budget=8, window=8)
        with refuses(lavakv.BudgetError, "budget"):
            recording.fill(cache)
        assert cache.batch_size == -1
        feed(model, cache, [prompt[:, :6]])
    assert cache.lengths().unique().tolist() == [6]
