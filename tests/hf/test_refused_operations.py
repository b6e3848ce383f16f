"""Options and cache operations that evicted entries make impossible, or that are not there yet."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import DynamicCache, GenerationConfig

import lavakv
from lavakv import UnsupportedError
from tests.hf import zoo
from tests.hf.helpers import assert_like_new, assert_same_contents, contents, feed, lava_cache, refuses, split

KINDS = ["llama", "gemma3_text"]
CHUNKS = split(zoo.prompt(44), [40, 1, 3])
OPTIONS = {
    "use_cache": False,
}


@pytest.mark.parametrize("way", ["argument", "generation_config", "positional", "model"])
@pytest.mark.parametrize("option", OPTIONS)
def test_generate_options(option: str, way: str) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache, value = lava_cache(model), OPTIONS[option]
    named = {"past_key_values": cache, "max_new_tokens": 2}
    config = GenerationConfig(**{option: value, "max_new_tokens": 2})
    with refuses(UnsupportedError, option, repr(value)):
        if way == "argument":
            model.generate(CHUNKS[0], **named, **{option: value})
        elif way == "generation_config":
            model.generate(CHUNKS[0], past_key_values=cache, generation_config=config)
        elif way == "positional":
            model.generate(CHUNKS[0], config, past_key_values=cache)
        else:
            setattr(model.generation_config, option, value)
            model.generate(CHUNKS[0], **named)
    assert_like_new(model, cache, lava_cache(model))


@pytest.mark.parametrize("option", ["prefill_chunk_size", "num_beams", "prompt_lookup_num_tokens"])
def test_generate_options_with_other_caches_work_on(option: str) -> None:
    model = zoo.tiny("llama")
    options = {"max_new_tokens": 3, "do_sample": False, option: 2}
    plain = model.generate(CHUNKS[0], past_key_values=DynamicCache(config=model.config), **options)
    lavakv.enable(model)
    assert model.generate(CHUNKS[0], past_key_values=DynamicCache(config=model.config), **options).equal(plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["argument", "config"])
def test_attention_weights(kind: str, way: str) -> None:
    model = zoo.tiny(kind, attention="eager")
    if way == "config":
        model.config.output_attentions = True
    lavakv.enable(model)
    cache = lava_cache(model)
    with refuses(UnsupportedError, "output_attentions", "True"):
        model(CHUNKS[0], past_key_values=cache, **({"output_attentions": True} if way == "argument" else {}))
    assert len(model(CHUNKS[0], output_attentions=True).attentions) == model.config.num_hidden_layers
    model.config.output_attentions = False
    assert_like_new(model, cache, lava_cache(model))


OPERATIONS: dict[str, tuple[str, Callable[[lavakv.LavaCache], object]]] = {
    "offload": ("offloading", lambda cache: cache.offload(cache.layer_indices[0])),
    "fetch": ("offloading", lambda cache: cache.layers[cache.layer_indices[0]].prefetch()),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt", [40, 5])
def test_cache_operations(kind: str, name: str, prompt: int) -> None:
    """Also on a prompt so short that transformers' sliding layers would go along."""
    argument, operation = OPERATIONS[name]
    model, chunks = lavakv.enable(zoo.tiny(kind)), split(zoo.prompt(prompt + 4, batch=2), [prompt, 1, 3])
    cache, expected = lava_cache(model), feed(model, lava_cache(model), chunks)
    with refuses(UnsupportedError, argument):
        operation(cache)
    assert cache.get_seq_length() == cache.nbytes == 0
    feed(model, cache, chunks[:1])
    before = contents(cache)
    with refuses(UnsupportedError, argument):
        operation(cache)
    assert_same_contents(before, cache)
    assert feed(model, cache, chunks[1:]).equal(expected[:, 1:])


@pytest.mark.parametrize("kind", KINDS)
def test_cache_does_not_claim_what_it_refuses(kind: str) -> None:
    assert not lava_cache(zoo.tiny(kind)).is_compileable
