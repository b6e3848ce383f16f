"""A decode step under PyTorch's global defaults and modes, with the C kernel and without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
import torch
from torch import Tensor

import lavakv
from lavakv.attention import native as decode
from lavakv.hf import LavaCache, enabled
from lavakv.scoring.prompt import ReplayMaxima
from tests.hf import zoo
from tests.scoring.cases import made_up_rotation


@pytest.fixture(params=["kernel", "operators"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    decode.kernel.cache_clear()
    if request.param == "operators":
        monkeypatch.setattr(decode, "kernel", lambda: None)
    return str(request.param)


@contextmanager
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("defaults", [lambda: torch.device("meta"), double], ids=["device", "dtype"])
def test_a_step_does_not_take_the_users_defaults_for_its_own(way, defaults) -> None:
    model, ids = zoo.tiny("llama"), zoo.prompt(44)
    answers = []
    with enabled(model), torch.no_grad():
        for own in (False, True):
            cache = LavaCache(model.config, 20, window=8)
            model(ids, past_key_values=cache)
            if own:
                with defaults():
                    answers.append(model(ids[:, :1], past_key_values=cache).logits)
            else:
                answers.append(model(ids[:, :1], past_key_values=cache).logits)
    assert torch.allclose(answers[0], answers[1], atol=1e-6)


def _told(policy: str, defaults: Callable[[], AbstractContextManager[object]], **settings: object) -> list[Tensor]:
    """All that a cache tells about two prompts, one of them padded, and a step."""
    model, ids = zoo.tiny("llama"), zoo.prompt(44, batch=2)
    mask = torch.ones(2, 45, dtype=torch.int64)
    mask[1, :9] = 0
    with enabled(model), torch.no_grad(), defaults():
        cache = LavaCache(model.config, policy=policy, window=8, **settings)
        logits = [model(ids, attention_mask=mask[:, :44], past_key_values=cache).logits[:, -1:]]
        logits.append(model(ids[:, :1], attention_mask=mask, past_key_values=cache).logits)
        positions = [cache.kept_positions(layer, 1, head) for layer in range(3) for head in range(2)]
        return [*logits, *cache.budgets(), cache.lengths(), *positions]


@pytest.mark.parametrize("store", ["ragged", "masked"])
@pytest.mark.parametrize("policy", lavakv.policies())
def test_a_prompt_does_not_either(policy, store) -> None:
    for defaults in (lambda: torch.device("meta"), double):
        for size in ({"budget": 20}, {"budget": 40}, {"keep": 0.5}):
            expected, told = (_told(policy, own, store=store, **size) for own in (nullcontext, defaults))
            for one, other in zip(expected, told, strict=True):
                assert one.device == other.device
                torch.testing.assert_close(one, other, equal_nan=True)


@pytest.mark.parametrize("policy", lavakv.policies())
def test_the_core_does_not_either(policy) -> None:
    """`scores` and `select`, for a prompt beyond its budget and one within."""
    torch.manual_seed(0)
    queries, keys, values = torch.randn(4, 180, 16), torch.randn(2, 180, 16), torch.randn(2, 180, 16)
    more = {"output_weight": torch.randn(4, 16, 32), "prompt_queries": queries, "tokens_per_head": 20}
    more["residual_norms"], more["rotation"] = torch.rand(8) + 1, made_up_rotation(180, 16, torch.default_generator)
    more["replay"] = ReplayMaxima(*torch.rand(2, 2, 2, 180))
    for budget in (20, 180):
        selections = []
        for defaults in (nullcontext, lambda: torch.device("meta"), double):
            with defaults():
                found = [lavakv.scores(policy, queries[:, -8:], keys, values, layer=i, **more) for i in range(2)]
                selections.append(lavakv.select(policy, found, budget, window=8, layer_weights=[1.0, 2.0]))
        for selection in selections[1:]:
            assert torch.equal(selection.positions, selections[0].positions)
            assert torch.equal(selection.counts, selections[0].counts)


def test_gradients_after_inference_mode(way) -> None:
    """What a first step made and kept may not be of inference mode's kind."""
    model, ids = zoo.tiny("llama"), zoo.prompt(44)
    cache = LavaCache(model.config, 20, window=8)
    with enabled(model):
        with torch.inference_mode():
            model(ids, past_key_values=cache)
            model(ids[:, :1], past_key_values=cache)
        model(ids[:, :1], past_key_values=cache).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.model.norm.parameters())
