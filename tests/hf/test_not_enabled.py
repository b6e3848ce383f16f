"""A `LavaCache` given to a model that lavakv is not enabled on, or no more."""

from __future__ import annotations

import pytest
import torch
import transformers

import lavakv
from lavakv import NotEnabledError
from tests.hf import zoo
from tests.hf.helpers import assert_like_new, assert_same_contents, contents, feed, lava_cache, refuses, split

CHUNKS = split(zoo.prompt(44), [40, 1, 3])


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "qwen3_next", "gpt_neox"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_model_that_is_not_enabled(kind: str, attention: str) -> None:
    """Refused with an empty and with a filled cache; neither changes, and both serve the enabled model after."""
    model = zoo.tiny(kind, attention=attention)
    empty, filled, reference = lava_cache(model), lava_cache(model), lava_cache(model)
    with lavakv.enabled(model):
        feed(model, filled, CHUNKS[:2])
        expected = feed(model, reference, CHUNKS)
    before = contents(filled)
    for cache in (empty, filled):
        with refuses(NotEnabledError, "model"):
            feed(model, cache, CHUNKS[:1])
        with refuses(NotEnabledError, "model"):
            model.generate(CHUNKS[0], past_key_values=cache, max_new_tokens=2)
    assert_same_contents(before, filled)
    with lavakv.enabled(model):
        assert_like_new(model, empty, lava_cache(model))
        assert feed(model, filled, CHUNKS[2:]).equal(expected[:, -1:])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_other_attention_set_after_enable(attention: str) -> None:
    """lavakv stands on no name: another one may be set at any time, also for a cache that is filled."""
    model = zoo.tiny("gemma3_text", torch.float64)
    lavakv.enable(model)
    expected, cache = feed(model, lava_cache(model), CHUNKS), lava_cache(model)
    feed(model, cache, CHUNKS[:1])
    model.set_attn_implementation(attention)
    assert feed(model, cache, CHUNKS[1:]).argmax(-1).equal(expected[:, 1:].argmax(-1))
    assert feed(model, lava_cache(model), CHUNKS).argmax(-1).equal(expected.argmax(-1))


def test_a_model_beside_an_enabled_one() -> None:
    """Who has called `enable`, on another model or on this one, is not told to call it first and nothing else."""
    one, other = zoo.tiny("llama"), zoo.tiny("llama")
    with lavakv.enabled(one), refuses(NotEnabledError, "model", "none of the enabled models"):
        feed(other, lava_cache(other), CHUNKS[:1])
    with lavakv.enabled(one), pytest.raises(NotEnabledError, match=f"transformers is {transformers.__version__}"):
        feed(other, lava_cache(other), CHUNKS[:1])
