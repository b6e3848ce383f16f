"""What a cache takes back, and what it refuses to."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from transformers import DynamicCache

import lavakv
from lavakv import CacheStateError, InputError, UnsupportedError
from lavakv.hf.contract import cache_argument
from tests.hf import zoo
from tests.hf.generation import ABOVE, KINDS, PROMPT
from tests.hf.helpers import assert_same_contents, contents, feed, kept, lava_cache, refuses, split

POSITIVE_IS_LENGTH = tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (5, 18)


@pytest.mark.parametrize("kind", KINDS)
def test_a_crop_leaves_no_trace(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    chunks = split(zoo.prompt(PROMPT + 6, batch=2), [PROMPT, 1, 3, 2])
    cache = lava_cache(model)
    feed(model, cache, chunks[:2])
    cache.activate_past_recording()
    assert cache.is_recording
    twin = copy.deepcopy(cache)
    feed(model, cache, [zoo.prompt(5, batch=2, seed=9)])
    cache.crop(-5)
    assert cache.get_seq_length() == PROMPT + 1
    cache.stop_recording()
    twin.stop_recording()
    assert feed(model, cache, chunks[2:]).equal(feed(model, twin, chunks[2:]))
    assert kept(cache) == kept(twin)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 9, PROMPT - 1])
@pytest.mark.parametrize("store", ["ragged", "masked"])
def test_what_has_evicted_nothing_can_be_cropped_anywhere(kind: str, count: int, store: str) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    cache, stock = lava_cache(model, budget=ABOVE, store=store), DynamicCache(config=model.config)
    chunks = split(zoo.prompt(PROMPT + 5, batch=2), [PROMPT, 5])
    for one in (cache, stock):
        one.activate_past_recording()
        feed(model, one, [chunks[0]])
        one.crop(-count)
    assert cache.get_seq_length() == PROMPT - count
    assert int(cache.lengths().sum()) == (PROMPT - count) * cache.lengths().numel()
    with torch.no_grad():
        found, expected = (model(chunks[1], **cache_argument(model, one)).logits for one in (cache, stock))
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_all_of_a_cache_can_be_cropped_where_nothing_is_evicted() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model, budget=ABOVE)
    chunks = split(zoo.prompt(PROMPT + 4), [PROMPT, 4])
    feed(model, cache, chunks)
    cache.crop(-PROMPT - 4)
    assert cache.get_seq_length() == cache.nbytes == 0
    assert feed(model, cache, chunks).equal(feed(model, lava_cache(model, budget=ABOVE), chunks))


CROPS: dict[str, tuple[object, str]] = {
    "into what the eviction judged by": (-5, "-"),
    "into what was evicted": (-PROMPT + 2, "-"),
    "more than was seen": (-PROMPT - 5, "-"),
    "half a token": (-1.5, "-1.5"),
    "a flag": (True, "True"),
    "a tensor of two": (torch.tensor([-1, -1]), "tensor"),
}


@pytest.mark.parametrize("name", CROPS)
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_a_crop_that_cannot_be_is_refused(kind: str, name: str) -> None:
    model, chunks = lavakv.enable(zoo.tiny(kind)), split(zoo.prompt(PROMPT + 4, batch=2), [PROMPT, 3, 1])
    cache, expected = lava_cache(model), feed(model, lava_cache(model), chunks)
    feed(model, cache, chunks[:2])
    before = contents(cache)
    with refuses(InputError, "tokens_to_remove", CROPS[name][1].strip("-")):
        cache.crop(CROPS[name][0])
    assert_same_contents(before, cache)
    assert feed(model, cache, chunks[2:]).equal(expected[:, -1:])


def test_a_positive_number_is_what_it_is_in_the_transformers_installed() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, split(zoo.prompt(PROMPT + 4), [PROMPT, 4]))
    if POSITIVE_IS_LENGTH:
        cache.crop(PROMPT + 9)
        assert cache.get_seq_length() == PROMPT + 4
        cache.crop(PROMPT + 1)
        assert cache.get_seq_length() == PROMPT + 1
    else:
        with refuses(InputError, "tokens_to_remove", "1"):
            cache.crop(PROMPT + 1)
        assert cache.get_seq_length() == PROMPT + 4


def test_a_sliding_layer_that_recorded_nothing_is_named() -> None:
    model = lavakv.enable(zoo.tiny("gemma3_text"))
    cache = lava_cache(model)
    feed(model, cache, split(zoo.prompt(PROMPT + 4), [PROMPT, 4]))
    before = contents(cache)
    with refuses(CacheStateError, "cache layer 0"):
        cache.crop(-2)
    cache.crop(0)
    assert_same_contents(before, cache)
    cache.activate_past_recording()
    feed(model, cache, [zoo.prompt(2, seed=3)])
    with refuses(CacheStateError, "cache layer 0"):
        cache.crop(-3)
    cache.crop(-2)
    cache.stop_recording()
    assert not cache.is_recording
    assert cache.get_seq_length() == PROMPT + 4
    after = contents(cache)  # all but the bytes: transformers' layers hold views of what they were given last
    assert all(one.equal(other) for one, other in zip(before[2:], after[2:], strict=True))


@pytest.mark.parametrize("kind", ["falcon_h1", "qwen3_next", "zamba2"])
def test_a_recurrent_state_cannot_be_cropped(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    cache = lava_cache(model)
    chunks = split(zoo.prompt(PROMPT + 4), [PROMPT, 3, 1])
    expected = feed(model, lava_cache(model), chunks)
    feed(model, cache, chunks[:2])
    assert not cache.is_croppable
    with refuses(UnsupportedError, "cropping", "recurrent"):
        cache.crop(-1)
    assert feed(model, cache, chunks[2:]).equal(expected[:, -1:])
