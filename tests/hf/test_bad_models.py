"""Models a cache was not made for, models lavakv cannot be enabled on, models it was not enabled on."""

from __future__ import annotations

import gc

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

import lavakv
from lavakv import CacheMismatchError, InputError, NothingToCompressError, UnsupportedError
from tests.hf import zoo
from tests.hf.helpers import assert_like_new, assert_same_contents, contents, feed, lava_cache, refuses, split

CHUNKS = split(zoo.prompt(44), [40, 1, 3])
TINY = {"vocab_size": 96, "hidden_size": 32}
OUTSIDE = {
    "falcon": {**TINY, "num_hidden_layers": 2, "num_attention_heads": 4},
    "mpt": {"vocab_size": 96, "d_model": 32, "n_layers": 2, "n_heads": 4},
    "bloom": {**TINY, "n_layer": 2, "n_head": 4},
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_enable_refuses_attention_outside_the_interface(kind: str) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **OUTSIDE[kind])).eval()
    before, implementation = model(CHUNKS[0]).logits, model.config._attn_implementation
    with refuses(UnsupportedError, kind, "attention of its own"):
        lavakv.enable(model)
    assert model.config._attn_implementation == implementation
    assert model(CHUNKS[0]).logits.equal(before)
    assert "generate" not in vars(model)


def test_enable_refuses_an_encoder_decoder_model() -> None:
    settings = {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 16, "d_kv": 8, "vocab_size": 96}
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("t5", **settings))
    with refuses(UnsupportedError, "t5", "encoder-decoder"):
        lavakv.enable(model)


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_enable_refuses_a_bidirectional_model(kind: str) -> None:
    settings = {**zoo.common(), "num_hidden_layers": 2, "num_key_value_heads": 4}
    models = [
        AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings, is_decoder=decoder))
        for decoder in (False, True)
    ]
    with refuses(UnsupportedError, kind, "bidirectional"):
        lavakv.enable(models[0])
    cache = lava_cache(lavakv.enable(models[1].eval()))
    feed(models[1], cache, CHUNKS)
    assert int(cache.lengths().sum()) == (24 + 4) * 2 * 4


def test_a_config_of_bidirectional_attention_is_refused() -> None:
    config = zoo.tiny_config("gemma3_text", use_bidirectional_attention=True)
    with refuses(UnsupportedError, "gemma3_text", "bidirectional"):
        lavakv.LavaCache(config)


@pytest.mark.parametrize("thing", [None, "llama", torch.nn.Linear(2, 2), torch.nn.DataParallel(torch.nn.Identity())])
def test_enable_refuses_what_is_no_model(thing: object) -> None:
    for function in (lavakv.enable, lavakv.disable):
        with refuses(InputError, "model", type(thing).__name__):
            function(thing)


NOT_COMPRESSIBLE = {
    "t5": (UnsupportedError, "encoder-decoder", {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 16}),
    "deepseek_v3": (UnsupportedError, "MLA", {"num_hidden_layers": 2, "hidden_size": 32}),
    "dots3_note_text": (UnsupportedError, "MLA", {}),  # stated per layer
    "xlstm": (NothingToCompressError, "without attention heads", {"num_hidden_layers": 2}),
    "mamba": (NothingToCompressError, "layers", {"num_hidden_layers": 2, "hidden_size": 16}),
    "mistral": (NothingToCompressError, "Sliding", {"num_hidden_layers": 2, "sliding_window": 64}),
}


@pytest.mark.parametrize("kind", NOT_COMPRESSIBLE)
def test_models_without_anything_to_compress(kind: str) -> None:
    error, got, settings = NOT_COMPRESSIBLE[kind]
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    with refuses(error, kind, got):
        lavakv.LavaCache(AutoConfig.for_model(kind, **settings))


OTHER = {
    "layers": ("llama", {"num_hidden_layers": 2}),
    "heads": ("llama", {"num_key_value_heads": 4}),
    "positions": ("llama", {"max_position_embeddings": 128}),
    "architecture": ("qwen2", {}),
    "layer types": ("gemma3_text", {}),
}


@pytest.mark.parametrize("what", OTHER)
def test_cache_made_for_another_model(what: str) -> None:
    kind, settings = OTHER[what]
    model, other = lavakv.enable(zoo.tiny("llama")), lavakv.enable(zoo.tiny(kind, **settings))
    cache = lava_cache(model)
    with refuses(CacheMismatchError, "cache", other.config.model_type):
        feed(other, cache, CHUNKS)
    assert_like_new(model, cache, lava_cache(model))


@pytest.mark.parametrize("first_is_gone", [False, True])
def test_cache_filled_by_another_model_object(first_is_gone: bool) -> None:
    model, twin = lavakv.enable(zoo.tiny("llama")), lavakv.enable(zoo.tiny("llama"))
    cache, expected = lava_cache(model), feed(model, lava_cache(model), CHUNKS)
    feed(model, cache, CHUNKS[:1])
    before = contents(cache)
    if first_is_gone:
        del model
        gc.collect()
    with refuses(CacheMismatchError, "cache"):
        feed(twin, cache, CHUNKS[1:])
    assert_same_contents(before, cache)
    if first_is_gone:
        cache.reset()
        assert_like_new(twin, cache, lava_cache(twin))
    else:
        assert feed(model, cache, CHUNKS[1:])[:, 0].equal(expected[:, 1])


def test_model_whose_heads_differ_from_its_config() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    model.config.num_key_value_heads = 4
    cache = lava_cache(model)
    with refuses(UnsupportedError, "model layer 0", "2"):
        feed(model, cache, CHUNKS[:1])
    assert cache.get_seq_length() == 0
    assert cache.nbytes == 0
