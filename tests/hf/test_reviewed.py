"""Ways to go silently wrong that a review found, each refused or right now."""

from __future__ import annotations

import numpy
import pytest
import torch
from transformers import GenerationConfig

import lavakv
from lavakv.hf.positions import max_positions
from tests.hf import zoo
from tests.hf.helpers import feed, lava_cache, split

PROMPT, BUDGET, WINDOW = 60, 20, 8


@pytest.fixture
def model():
    return lavakv.enable(zoo.tiny("llama"))


@pytest.fixture
def cache(model):
    return lavakv.LavaCache(model.config, BUDGET, window=WINDOW)


@pytest.mark.parametrize(("option", "value"), [("use_cache", False)])
def test_the_model_s_own_generation_config_is_read_behind_the_one_given(option, value, model, cache) -> None:
    setattr(model.generation_config, option, value)
    given = GenerationConfig(max_new_tokens=3, do_sample=False)
    with pytest.raises(lavakv.UnsupportedError, match=option):
        model.generate(zoo.prompt(PROMPT), past_key_values=cache, generation_config=given)
    assert cache.get_seq_length() == 0


@pytest.mark.parametrize("width", [1, 5, PROMPT + 4, PROMPT + 6])
def test_a_later_mask_spans_all_columns(width, model, cache) -> None:
    model(zoo.prompt(PROMPT), past_key_values=cache)
    with pytest.raises(lavakv.InputError, match="a mask of all columns"):
        model(zoo.prompt(5), attention_mask=torch.ones(1, width, dtype=torch.long), past_key_values=cache)
    before = cache.lengths()
    whole = torch.ones(1, PROMPT + 5, dtype=torch.long)
    model(zoo.prompt(5), attention_mask=whole, past_key_values=cache)
    assert cache.lengths().equal(before + 5)


@pytest.mark.parametrize("length", [PROMPT, 7])
def test_a_further_turn_that_would_lose_ids_is_refused(length, model, cache) -> None:
    ids = zoo.prompt(PROMPT)
    model.generate(ids, past_key_values=cache, max_new_tokens=3, do_sample=False, attention_mask=torch.ones_like(ids))
    held = cache.lengths()
    turn = zoo.prompt(length, seed=3)
    with pytest.raises(lavakv.InputError, match="the whole text"):
        model.generate(turn, past_key_values=cache, max_new_tokens=3, attention_mask=torch.ones_like(turn))
    assert cache.lengths().equal(held)
    whole = torch.ones(1, cache.get_seq_length() + length, dtype=torch.long)
    model.generate(turn, past_key_values=cache, max_new_tokens=1, attention_mask=whole)
    assert cache.lengths().equal(held + length)


@pytest.mark.parametrize("store", ["ragged", "masked"])
def test_autocast(store, model) -> None:
    cache = lavakv.LavaCache(model.config, BUDGET, window=WINDOW, store=store)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(zoo.prompt(PROMPT), past_key_values=cache)
        assert model(zoo.prompt(3), past_key_values=cache).logits.isfinite().all()


def test_layers_that_never_see_the_cache_are_noticed(model, cache) -> None:
    model.gradient_checkpointing_enable()
    model.train()
    with pytest.raises(lavakv.UnsupportedError, match="gradient checkpointing"):
        model(zoo.prompt(PROMPT), past_key_values=cache)
    model.eval()
    model(zoo.prompt(PROMPT), past_key_values=cache)
    assert cache.get_seq_length() == PROMPT


@pytest.mark.parametrize("original", [None, 64])
def test_scaled_positions_count(original) -> None:
    rope = {
        "rope_type": "yarn",
        "factor": 4.0,
        "rope_theta": 10000.0,
        "original_max_position_embeddings": original or 64,
    }
    config = zoo.tiny_config("llama", max_position_embeddings=64, rope_parameters=rope)
    assert max_positions(config) == 256
    assert max_positions(zoo.tiny_config("llama", max_position_embeddings=64)) == 64
    model = lavakv.enable(zoo.tiny("llama", max_position_embeddings=64, rope_parameters=rope))
    cache = lavakv.LavaCache(model.config, BUDGET, window=WINDOW)
    model(zoo.prompt(100), past_key_values=cache)
    with pytest.raises(lavakv.InputError, match="at most 256"):
        model(zoo.prompt(257), past_key_values=lavakv.LavaCache(model.config, BUDGET, window=WINDOW))


@pytest.mark.parametrize("kind", ["linear", "dynamic"])
@torch.no_grad()
def test_a_factor_without_the_original_length_sets_no_end(kind: str) -> None:
    """The stated length may or may not have the factor in it: what stock transformers runs is not refused."""
    rope = {"rope_type": kind, "factor": 8.0, "rope_theta": 10000.0}
    model = lavakv.enable(zoo.tiny("llama", max_position_embeddings=64, rope_parameters=rope))
    assert max_positions(model.config) is None
    whole = lava_cache(model, budget=1000)
    assert torch.equal(feed(model, whole, [zoo.prompt(100)]), feed(model, None, [zoo.prompt(100)]))
    assert feed(model, lava_cache(model), split(zoo.prompt(104), [100, 1, 3])).isfinite().all()


def test_a_cache_for_another_head_size_is_refused(model) -> None:
    other = lavakv.LavaCache(zoo.tiny_config("llama", head_dim=16), BUDGET, window=WINDOW)
    with pytest.raises(lavakv.CacheMismatchError):
        model(zoo.prompt(PROMPT), past_key_values=other)


def test_numpy_integers_are_budgets(model) -> None:
    cache = lavakv.LavaCache(model.config, numpy.int64(BUDGET), window=WINDOW)
    model(zoo.prompt(PROMPT), past_key_values=cache)
    assert int(cache.lengths().sum()) == BUDGET * cache.lengths().numel()


def test_a_user_s_own_generate_comes_back() -> None:
    model = zoo.tiny("llama")
    calls: list[str] = []
    model.generate = lambda *_, **__: calls.append("own")
    lavakv.enable(model)
    model.generate(zoo.prompt(3))
    lavakv.disable(model)
    model.generate(zoo.prompt(3))
    assert calls == ["own", "own"]


def test_a_store_that_is_no_name(model) -> None:
    with pytest.raises(lavakv.InputError, match="store"):
        lavakv.LavaCache(model.config, BUDGET, store=["ragged"])
