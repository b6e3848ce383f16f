"""A decode step under PyTorch's global defaults and modes, with the C kernel and without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from lavakv.attention import native as decode
from lavakv.hf import LavaCache, enabled
from tests.hf import zoo


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
