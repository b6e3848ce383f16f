"""Configurations hold what their names say, and those that see the same entries give the same outputs."""

from __future__ import annotations

import copy

import pytest
import torch

import lavakv
from lavakv.bench.configuration import Configuration, cut_to_budget, empty_full, empty_lavakv, read_prompt
from lavakv.bench.masked import masked_like
from lavakv.bench.settings import BenchSettings, Setting
from tests.hf import zoo
from tests.hf.helpers import BUDGET, BY_POSITION, lava_cache

TOKENS, BATCH, STEPS = 150, 2, 5


def _model(dtype: torch.dtype, attention: str = "sdpa"):
    return zoo.with_large_weights(zoo.tiny("llama", attention=attention)).to(dtype)


def _compressed(model, **settings) -> Configuration:
    return Configuration(lava_cache(model, policy=BY_POSITION, **settings), lambda: lavakv.enabled(model))


@torch.inference_mode()
def _filled(model, configuration: Configuration) -> Configuration:
    return read_prompt(model, zoo.prompt(TOKENS, BATCH), configuration)


@torch.inference_mode()
def _steps(model, configuration: Configuration) -> torch.Tensor:
    """Logits of some decode steps, in float64."""
    with configuration.around():
        ids = zoo.prompt(STEPS, BATCH, seed=1)
        return torch.cat(
            [model(one, past_key_values=configuration.cache).logits for one in ids.split(1, dim=1)]
        ).double()


def _masked(model, method: str) -> Configuration:
    full, kept = _filled(model, empty_full(model)), _filled(model, _compressed(model))
    return masked_like(full, kept.cache, model, num_new_tokens=STEPS, method=method)


def _error(values: torch.Tensor, exact: torch.Tensor) -> float:
    return float((values - exact).square().mean().sqrt())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("method", "attention"), [("mask", "sdpa"), ("fake_keys", "sdpa"), ("mask", "eager")])
def test_masks_on_the_full_cache_give_what_lavakv_gives(method, attention, dtype) -> None:
    """Both within twice the error of the masked store, against lavakv in float64."""
    model = _model(dtype, attention)
    exact_model = copy.deepcopy(model).double()
    exact = _steps(exact_model, _filled(exact_model, _compressed(exact_model)))
    allowed = 2 * _error(_steps(model, _filled(model, _compressed(model, store="masked"))), exact)
    assert _error(_steps(model, _masked(model, method)), exact) <= allowed
    assert _error(_steps(model, _filled(model, _compressed(model))), exact) <= allowed
    assert _error(_steps(model, _filled(model, empty_full(model))), exact) > 10 * allowed, "the masks hid nothing"


@pytest.mark.parametrize("method", ["mask", "fake_keys"])
def test_masks_leave_the_full_cache_and_the_model_as_they_were(method) -> None:
    model = _model(torch.float32)
    full, kept = _filled(model, empty_full(model)), _filled(model, _compressed(model))
    before = [layer.keys.clone() for layer in full.cache.layers]
    _steps(model, masked_like(full, kept.cache, model, num_new_tokens=STEPS, method=method))
    assert all(torch.equal(layer.keys, keys) for layer, keys in zip(full.cache.layers, before, strict=True))
    assert model.config._attn_implementation == "sdpa"


def test_masks_on_softcapped_attention_are_refused_but_with_eager() -> None:
    model = zoo.tiny("gemma2", attention="eager")
    masked = _masked(model, "mask")
    assert _steps(model, masked).isfinite().all()


def test_bytes_are_those_of_the_entries() -> None:
    model = _model(torch.float32)
    token = 2 * BATCH * 3 * 2 * 8 * 4  # keys and values, sequences, layers, KV heads, head size, bytes
    assert _filled(model, empty_full(model)).kv_bytes == TOKENS * token
    assert _filled(model, _compressed(model)).kv_bytes == BUDGET * token
    columns = 160  # 150 tokens and 5 to come, rounded up
    assert _masked(model, "mask").kv_bytes == TOKENS * token + BATCH * 3 * 2 * columns * 4
    assert _masked(model, "fake_keys").kv_bytes == TOKENS * token + BATCH * 3 * 2 * columns


@pytest.mark.parametrize(("budget", "held"), [(48, 48), (500, TOKENS)])
def test_the_cut_cache_holds_the_budget(budget, held) -> None:
    model = _model(torch.float32)
    with torch.inference_mode():
        cut = cut_to_budget(model, zoo.prompt(TOKENS, BATCH), Setting(TOKENS, BATCH, budget))
    assert {layer.keys.shape[2] for layer in cut.cache.layers} == {held}
    assert cut.cache.get_seq_length() == held


def test_windows_of_other_layers_are_as_full_as_after_the_whole_prompt() -> None:
    model = zoo.tiny("gemma3_text", sliding_window=40)
    ids = zoo.prompt(100)
    with torch.inference_mode():
        full = read_prompt(model, ids, empty_full(model))
        cut = cut_to_budget(model, ids, Setting(100, 1, 12))
        kept = read_prompt(model, ids, empty_lavakv(model, BenchSettings(window=4), 12))
        model(ids[:, :1], past_key_values=cut.cache)
    for index, layers in enumerate(zip(full.cache.layers, cut.cache.layers, strict=True)):
        whole, short = (layer.keys.shape[2] for layer in layers)
        assert short == (13 if index in kept.cache.layer_indices else whole)
