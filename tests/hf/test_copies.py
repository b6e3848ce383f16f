"""Copies, reset and threads: one prefix for many questions, one model for many caches."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import lavakv
from tests.hf import zoo
from tests.hf.helpers import assert_like_new, assert_same_contents, contents, feed, kept, lava_cache, split

KINDS = ["llama", "gemma3_text", "gpt_oss", "gpt2", "qwen3_next"]
PROMPT = zoo.prompt(50)


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_questions_on_copies_of_one_prefix(kind: str, grad: bool) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    cache = lava_cache(model)
    with torch.set_grad_enabled(grad):
        model(PROMPT, past_key_values=cache)
    before = contents(cache)
    for seed in (1, 2):
        question = zoo.prompt(4, seed=seed)
        twin, separate = copy.deepcopy(cache), lava_cache(model)
        expected = feed(model, separate, [PROMPT, *split(question, [3, 1])])
        got = feed(model, twin, split(question, [3, 1]))
        assert got.equal(expected[:, -2:])
        assert kept(twin) == kept(separate)
        assert_same_contents(before, cache)


def test_copy_shares_no_memory_and_wastes_none() -> None:
    model = lavakv.enable(zoo.tiny("gemma3_text"))
    cache = lava_cache(model)
    feed(model, cache, [PROMPT, zoo.prompt(3)])
    twin = copy.deepcopy(cache)
    assert twin.nbytes == cache.nbytes
    for index in cache.layer_indices:
        mine, other = cache.layers[index].store, twin.layers[index].store
        assert mine.past.keys.data_ptr() != other.past.keys.data_ptr()
        assert mine.tail.keys.data_ptr() != other.tail.keys.data_ptr()
        keys, values = other.past.segments[1]
        assert keys.untyped_storage().data_ptr() == other.past.keys.untyped_storage().data_ptr()
        assert values.untyped_storage().data_ptr() == other.past.values.untyped_storage().data_ptr()


def test_copy_of_an_empty_cache_works() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    assert_like_new(model, copy.deepcopy(lava_cache(model)), lava_cache(model))


@pytest.mark.parametrize("kind", KINDS)
def test_reset_makes_a_cache_as_new(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    cache = lava_cache(model)
    feed(model, cache, [zoo.prompt(50, batch=2, seed=3), zoo.prompt(2, batch=2)])
    cache.reset()
    with pytest.raises(lavakv.CacheStateError):
        cache.lengths()
    assert_like_new(model, cache, lava_cache(model))


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt_oss"])
def test_threads_with_a_cache_each_give_the_serial_results(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind))

    def work(seed: int) -> tuple[torch.Tensor, list[list[int]]]:
        cache = lava_cache(model, budget=20 + seed)
        ids = zoo.prompt(60 + seed, seed=seed)
        options = {"max_new_tokens": 15, "do_sample": False, "eos_token_id": None}
        return model.generate(ids, past_key_values=cache, **options), kept(cache)

    serial = [work(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for (text, held), (expected, expected_held) in zip(pool.map(work, range(4)), serial, strict=True):
                assert text.equal(expected)
                assert held == expected_held
