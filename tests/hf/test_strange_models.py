"""Models that do more with a cache, or with attention, than lavakv knows: refused by name, never silently wrong."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import huggingface_hub
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, DynamicCache, EncoderDecoderCache

import lavakv
from lavakv import UnsupportedError
from lavakv.hf.contract import cache_argument, cache_name
from tests.hf import zoo
from tests.hf.helpers import assert_like_new, feed, kept, lava_cache, refuses, split

CHUNKS = split(zoo.prompt(44), [40, 1, 3])


@pytest.mark.parametrize("name", ["position_bias", "sinks", "of_next_year"])
def test_real_numbers_handed_to_attention_under_an_unknown_name(name: str) -> None:
    """As Inkling does with its position bias: later forwards and scores would go without it."""
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    with refuses(UnsupportedError, name, "(1, 1, 40, 40)"):
        feed(model, cache, CHUNKS[:1], **{name: torch.ones(1, 1, 40, 40)})
    assert_like_new(model, cache, lava_cache(model))


def test_whole_numbers_and_flags_pass_through() -> None:
    """Models hand on ids and positions that attention does not look at."""
    model = lavakv.enable(zoo.tiny("llama"))
    plain, more = lava_cache(model), lava_cache(model)
    expected = feed(model, plain, CHUNKS[:1])
    extra = {"of_next_year": torch.ones(1, 40, dtype=torch.long), "flag": True, "nothing": None}
    assert feed(model, more, CHUNKS[:1], **extra).equal(expected)
    assert kept(more) == kept(plain)


def test_inkling_is_refused() -> None:
    if "inkling_text" not in CONFIG_MAPPING:
        pytest.skip("this transformers has no Inkling")
    from transformers.models.inkling.modeling_inkling import InklingTextModel

    sizes = {"hidden_size": 64, "moe_intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 16, "swa_head_dim": 16}
    heads = {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2}
    kinds = {"layer_types": ["hybrid_sliding", "hybrid"], "mlp_layer_types": ["dense", "dense"]}
    config = AutoConfig.for_model("inkling_text", **{**zoo.common(), **sizes, **heads, **kinds})
    model = lavakv.enable(InklingTextModel(config).eval())
    with refuses(UnsupportedError, "position_bias"), torch.no_grad():
        model(zoo.prompt(40), **cache_argument(model, lavakv.LavaCache(config, budget=20, window=4)))


def test_a_cache_inside_another_one() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    with refuses(UnsupportedError, "cache", "EncoderDecoderCache"):
        feed(model, EncoderDecoderCache(cache, DynamicCache()), CHUNKS[:1])
    assert_like_new(model, cache, lava_cache(model))


def test_a_model_that_returns_another_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny("llama")
    original, name = type(model.model).forward, cache_name(model)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        output[name] = EncoderDecoderCache(output[name], DynamicCache())
        return output

    forward.__wrapped__ = original  # type: ignore[attr-defined]
    monkeypatch.setattr(type(model.model), "forward", forward)
    lavakv.enable(model)
    cache = lava_cache(model)
    with refuses(UnsupportedError, "cache", "EncoderDecoderCache in what it returns"):
        feed(model, cache, CHUNKS[:1])
    assert cache.get_seq_length() == 0


def test_embeddings_that_take_no_ids_cannot_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """CSM's want codebooks."""
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    options = {"max_new_tokens": 2, "do_sample": False, "eos_token_id": None}
    model.generate(inputs_embeds=model.get_input_embeddings()(CHUNKS[0]), **cache_argument(model, cache), **options)
    monkeypatch.setattr(model, "get_input_embeddings", lambda: torch.nn.Linear(7, 7))
    with refuses(UnsupportedError, "input_ids", "Linear"):
        model.generate(zoo.prompt(60), **cache_argument(model, cache), **options)


@pytest.mark.parametrize("kind", ["swin", "blt"])
def test_configurations_of_something_else(kind: str) -> None:
    with refuses(UnsupportedError, "model", "of another kind"):
        lavakv.LavaCache(AutoConfig.for_model(kind))


def test_every_default_configuration_is_taken_or_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whatever kind: no error but ours leaves the constructor."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # some would look for a backbone
    outcomes = Counter()
    for kind in CONFIG_MAPPING:
        with contextlib.suppress(Exception):  # some have no default configuration
            outcomes[_outcome(CONFIG_MAPPING[kind]())] += 1
    assert outcomes["taken"] > 100
    assert not outcomes.keys() - {"taken", "UnsupportedError", "NothingToCompressError"}


def _outcome(config: Any) -> str:
    try:
        lavakv.LavaCache(config)
    except Exception as error:
        return type(error).__name__
    return "taken"
