"""PEFT models by their shape alone, so that the kind is tested where PEFT is not installed."""

from __future__ import annotations

from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import lavakv
from lavakv import UnsupportedError
from lavakv.hf.adapters import check_generate_adapter, unwrapped
from tests.hf import zoo
from tests.hf.helpers import feed, kept, lava_cache, refuses


class _Wrapped(nn.Module):
    """What PEFT puts around a model: its configurations, the model inside, and a forward that hands on."""

    def __init__(self, model: nn.Module, kind: str, is_prompt_learning: bool = False) -> None:
        super().__init__()
        self.base_model = nn.ModuleDict({"model": model})
        self.active_peft_config = SimpleNamespace(peft_type=kind, is_prompt_learning=is_prompt_learning)
        self.peft_config = {"default": self.active_peft_config}

    def get_base_model(self) -> nn.Module:
        return self.base_model["model"]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.get_base_model()(*args, **kwargs)

    def prepare_old(self, **kwargs: Any) -> Any:
        return kwargs.get("past_key_values")

    def prepare_new(self, **kwargs: Any) -> Any:
        return next((kwargs[name] for name in ("cache", "past_key_values") if name in kwargs), None)


class _Mixed(nn.Module):
    """Several kinds of adapter at once: PEFT's class for it has no `get_base_model`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model, self.peft_config = nn.Module(), {}
        self.base_model.model = model


class _Renamed:
    """A transformers model whose forward calls the cache by its new name."""

    def __init__(self, prepare: Any) -> None:
        self.prepare_inputs_for_generation = prepare

    def forward(self, input_ids: Any, cache: Any = None) -> None:
        """Never run."""


@pytest.mark.parametrize("wrap", [lambda model: _Wrapped(model, "LORA"), _Mixed])
def test_the_model_inside_is_enabled_and_disabled(wrap: Any) -> None:
    plain, inside = lavakv.enable(zoo.tiny("llama")), zoo.tiny("llama")
    name, model = inside.config._attn_implementation, wrap(inside)
    assert unwrapped(model) is inside
    assert lavakv.enable(lavakv.enable(model)) is model
    caches = [lava_cache(plain), lava_cache(inside)]
    for each, cache in zip((plain, inside), caches, strict=True):
        feed(each, cache, [zoo.prompt(40)])
    assert kept(caches[0]) == kept(caches[1])
    lavakv.disable(model)
    assert inside.config._attn_implementation == name
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "CARTRIDGE"])
def test_a_wrapper_with_a_cache_of_its_own_is_refused_unless_it_is_off(kind: str) -> None:
    inside = zoo.tiny("llama")
    model = lavakv.enable(_Wrapped(inside, kind, is_prompt_learning=True))
    cache = lava_cache(inside)
    with refuses(UnsupportedError, f"adapter {kind}", "a cache of its own"):
        model(zoo.prompt(40), past_key_values=cache)
    model(zoo.prompt(40))
    model._adapters_disabled = True
    with torch.no_grad():
        model(zoo.prompt(40), past_key_values=cache)
    assert cache.get_seq_length() == 40


def test_virtual_tokens_under_a_name_the_wrapper_does_not_know_are_refused() -> None:
    model = _Wrapped(zoo.tiny("llama"), "PROMPT_TUNING", is_prompt_learning=True)
    cache = lava_cache(model.get_base_model())
    with refuses(UnsupportedError, "adapter PROMPT_TUNING", "looks for the old name"):
        check_generate_adapter(_Renamed(model.prepare_old), cache)
    check_generate_adapter(_Renamed(model.prepare_new), cache)
    model.active_peft_config.is_prompt_learning = False
    check_generate_adapter(_Renamed(model.prepare_old), cache)


def test_a_model_without_a_wrapper_passes() -> None:
    model = _Renamed(None)
    model.prepare_inputs_for_generation = MethodType(lambda _: None, model)
    check_generate_adapter(model, lava_cache(zoo.tiny("llama")))
