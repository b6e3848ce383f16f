"""Every change of a model after which a captured forward would compute something else is noticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lavakv.hf.graph.model_watch import ModelWatch
from tests.hf import zoo


def _swapped_layers(model: Any) -> None:
    layers = model.model.layers
    layers[0], layers[1] = layers[1], layers[0]


def _equal_weight(model: Any) -> None:
    head = model.lm_head
    head.weight = nn.Parameter(head.weight.detach().clone())


def _equal_scale(model: Any) -> None:
    """One number, which a comparison by value takes for the old one."""
    model.model.scale = model.model.scale.clone()


def _view_of_the_same_memory(model: Any) -> None:
    query = model.model.layers[0].self_attn.q_proj
    query._parameters["weight"] = nn.Parameter(query.weight.detach().t())


def _moved(model: Any) -> None:
    model.lm_head.weight.data = model.lm_head.weight.data.clone()


def _bias(model: Any) -> None:
    model.lm_head.bias = nn.Parameter(torch.zeros(model.lm_head.out_features))


def _removed(model: Any) -> None:
    del model.model.layers[-1]


@pytest.mark.parametrize(
    "change",
    [
        _swapped_layers,
        _equal_weight,
        _equal_scale,
        _view_of_the_same_memory,
        _moved,
        _bias,
        _removed,
        lambda model: model.model.layers[0].train(),
        lambda model: model.set_attn_implementation("eager"),
        lambda model: model.set_experts_implementation("batched_mm"),
        lambda model: setattr(model.config, "use_cache", False),
        lambda model: setattr(model.model.layers[0].self_attn, "scaling", 3.0),
        lambda model: model.model.norm.register_forward_hook(lambda *_: None),
    ],
)
def test_a_change_gives_another_version(change: Callable[[Any], object]) -> None:
    model = zoo.tiny("mixtral", attention="sdpa")
    model.model.register_buffer("scale", torch.ones(1))
    watch = ModelWatch(model)
    before = watch.refresh()
    assert watch.check() == before
    change(model)
    after = watch.check()
    assert after != before
    assert watch.check() == after


def test_weights_written_in_place_and_modes_that_come_back_change_nothing() -> None:
    model = zoo.tiny("llama")
    watch = ModelWatch(model)
    before = watch.refresh()
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    model.train().eval()
    assert watch.check() == before
