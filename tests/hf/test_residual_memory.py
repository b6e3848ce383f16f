"""Hidden states, of which scores read the norms: nothing keeps them after the prefill."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn

import lavakv
from lavakv import PolicyError
from lavakv.evaluation.sweep import Sweep
from lavakv.evaluation.variant import Variant
from lavakv.hf.recorder import record
from tests.hf import zoo
from tests.hf.helpers import BUDGET, WINDOW, feed, lava_cache, refuses

PROMPT = 40


def _watched(model: nn.Module) -> list[weakref.ref[torch.Tensor]]:
    """References to what enters each layer from now on."""
    entered: list[weakref.ref[torch.Tensor]] = []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda _, args: entered.append(weakref.ref(args[0])))
    return entered


def _prefill(model: nn.Module) -> object:
    cache = lava_cache(model, policy="residual")
    feed(model, cache, [zoo.prompt(PROMPT)])
    return cache


def _failed_prefill(model: nn.Module) -> object:
    cache = lava_cache(model, policy="residual")
    with refuses(PolicyError, "residual"):
        feed(model, cache, [zoo.prompt(PROMPT)])
    return cache


def _recording(model: nn.Module) -> object:
    return record(model, zoo.prompt(PROMPT))


def _sweep(model: nn.Module) -> object:
    sweep = Sweep(model, zoo.prompt(PROMPT), num_positions=1)
    sweep.filled(Variant("residual", budget=BUDGET, window=WINDOW))
    return sweep


LAST = {"full": ["sliding_attention", "full_attention"] * 3, "sliding": ["full_attention", "sliding_attention"] * 3}


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("read", [_prefill, _failed_prefill, _recording, _sweep])
def test_hidden_states_die_with_the_prefill(read: Callable[[nn.Module], object], last: str) -> None:
    """A last layer that is not compressed hands its input on to nobody."""
    model = lavakv.enable(zoo.tiny("gemma3_text", layer_types=LAST[last]))
    if read is _failed_prefill:
        model.model.layers[4].self_attn.v_proj.weight.data[0, 0] = float("nan")
    entered, held = _watched(model), read(model)
    assert len(entered) >= 5
    if read is _failed_prefill:
        gc.collect()  # frames of the error
    assert [reference() for reference in entered] == [None] * len(entered)
    assert held is not None


def test_during_the_prefill_no_layer_s_input_outlives_it() -> None:
    """But for the first one's, which the model itself holds."""
    model, alive = lavakv.enable(zoo.tiny("llama", num_hidden_layers=8)), []
    entered = _watched(model)
    for layer in model.model.layers:
        layer.mlp.register_forward_pre_hook(
            lambda *_: alive.append(sum(reference() is not None for reference in entered[1:]))
        )
    _prefill(model)
    assert len(alive) == 8
    assert max(alive) <= 1
