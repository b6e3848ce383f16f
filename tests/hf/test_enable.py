"""`enable`, `disable`, `enabled`: what they change on a model, and that all of it can be undone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import lavakv
from lavakv import NotEnabledError
from tests.hf import zoo
from tests.hf.helpers import feed, lava_cache, refuses, split


def _traces(model: nn.Module) -> list[object]:
    """Everything `enable` could leave behind."""
    decoder = model.get_decoder()
    return [
        model.config._attn_implementation,
        decoder.config._attn_implementation,
        sorted(key for module in (model, decoder) for key in vars(module)),
        [len(getattr(m, name)) for m in model.modules() for name in ("_forward_pre_hooks", "_forward_hooks")],
        [len(m._forward_hooks_always_called) for m in model.modules()],
        type(model.generate),
    ]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3", "qwen2_vl"])
def test_disable_restores_everything(kind: str, attention: str) -> None:
    make = zoo.tiny if kind in zoo.TEXT else zoo.tiny_vision
    model = make(kind, attention=attention)
    before = _traces(model)
    lavakv.enable(model)
    assert _traces(model) != before
    lavakv.disable(model)
    assert _traces(model) == before
    lavakv.disable(model)
    assert _traces(model) == before


def test_enable_twice_is_enable_once() -> None:
    model = zoo.tiny("llama")
    before = _traces(model)
    assert lavakv.enable(model) is model
    once = _traces(model)
    lavakv.enable(model)
    assert _traces(model) == once
    lavakv.disable(model)
    assert _traces(model) == before


def test_nested_enabled_ends_with_the_outer_one() -> None:
    model, ids = zoo.tiny("llama"), zoo.prompt(40)
    before = _traces(model)
    with lavakv.enabled(model) as same:
        assert same is model
        with lavakv.enabled(model):
            feed(model, lava_cache(model), [ids])
        feed(model, lava_cache(model), [ids])
    assert _traces(model) == before
    with pytest.raises(KeyError), lavakv.enabled(model):
        raise KeyError
    assert _traces(model) == before


def test_models_that_share_a_config() -> None:
    """Nothing is written into a config: each model is enabled for itself."""
    one = zoo.tiny("llama")
    torch.manual_seed(1)
    two = AutoModelForCausalLM.from_config(one.config).eval()
    two.config = two.model.config = one.config
    for layer in two.model.layers:
        layer.self_attn.config = one.config
    chunks = split(zoo.prompt(44), [40, 1, 3])
    plain = two(zoo.prompt(40)).logits
    lavakv.enable(one)
    assert two(zoo.prompt(40)).logits.equal(plain)
    with refuses(NotEnabledError, "model"):
        feed(two, lava_cache(two), chunks)
    lavakv.enable(two)
    alone = feed(two, lava_cache(two), chunks)
    lavakv.disable(one)
    assert feed(two, lava_cache(two), chunks).equal(alone)


def test_deep_copy_of_an_enabled_model_stands_on_its_own() -> None:
    model, chunks = lavakv.enable(zoo.tiny("llama")), split(zoo.prompt(44), [40, 1, 3])
    twin = copy.deepcopy(model)
    expected = feed(model, lava_cache(model), chunks)
    lavakv.disable(model)
    assert feed(twin, lava_cache(twin), chunks).equal(expected)
    assert twin.generate.__self__ is twin
    lavakv.disable(twin)
    assert _traces(twin) == _traces(model)


def test_head_can_be_enabled_after_its_decoder() -> None:
    model = zoo.tiny("llama")
    before = _traces(model)
    lavakv.enable(model.model)
    lavakv.enable(model)
    with refuses(lavakv.UnsupportedError, "use_cache"):
        model.generate(zoo.prompt(40), past_key_values=lava_cache(model), use_cache=False, max_new_tokens=2)
    lavakv.disable(model)
    assert _traces(model) == before


def test_sdpa_that_would_drop_a_softcap_is_replaced() -> None:
    """Newer transformers refuse sdpa for Gemma-2 when it is set; older ones drop the softcap without a word."""
    model, chunks = lavakv.enable(zoo.tiny("gemma2", attention="eager")), split(zoo.prompt(44), [40, 1, 3])
    expected = feed(model, lava_cache(model), chunks)
    lavakv.disable(model)
    model.config._attn_implementation_internal = "sdpa"
    with pytest.warns(UserWarning, match="softcap of gemma2"):
        lavakv.enable(model)
    assert feed(model, lava_cache(model), chunks).equal(expected)
