"""Output projections that cannot be used: refused with the true reason, where a policy needs them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lavakv
from lavakv import PolicyError, UnsupportedError
from lavakv.hf.projection import OutputProjection
from tests.hf import zoo
from tests.hf.helpers import assert_like_new, feed, lava_cache, refuses
from tests.hf.stand_ins import Gated, LowRank, attentions, projections, replace_projections

PROMPT = 60
CPU = torch.device("cpu")


ODD = {
    "departs from an affine map by": (Gated, "a Gated of tests,", "merge_and_unload"),
    "gives NaN": (lambda layer: Gated(layer, scale=float("nan")), "which gives NaN or infinity", "merge_and_unload"),
    "fails": (lambda layer: Gated(layer, fails=True), "test inputs: ValueError: rows of a batch", "merge_and_unload"),
    "dropout": (lambda layer: LowRank(layer, dropout=0.1).train(), "dropout in training mode", "`model.eval()`"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_cannot_be_used_is_refused_with_its_reason(kind: str) -> None:
    wrap, got, fix = ODD[kind]
    model = lavakv.enable(zoo.tiny("llama"))
    attention = list(attentions(model))[1]
    plain, cache = attention.o_proj, lava_cache(model, policy="criticalkv")
    attention.o_proj = wrap(plain)
    with pytest.raises(PolicyError, match=kind) as caught, torch.no_grad():
        model(zoo.prompt(PROMPT), past_key_values=cache)
    assert caught.value.argument == "policy 'criticalkv' at layer 1"
    assert got in caught.value.got
    assert fix in caught.value.fix
    assert ".." not in str(caught.value)
    attention.o_proj = plain
    assert_like_new(model, cache, lava_cache(model, policy="criticalkv"))


@pytest.mark.parametrize(
    ("layers", "got"),
    [
        ({}, "a ModuleDict without one"),
        ({"o_proj": nn.Linear(12, 8)}, "o_proj of 12 numbers"),
        ({"o_proj": nn.Linear(12, 8), "dense": nn.Linear(20, 8)}, "o_proj of 12 numbers and dense of 20 numbers"),
        ({"wo": nn.Linear(24, 8)}, "a ModuleDict without one"),
    ],
)
def test_a_projection_that_is_not_found_is_refused_by_name(layers: dict[str, nn.Module], got: str) -> None:
    projection = OutputProjection(nn.ModuleDict(layers), 4, 6, torch.float32, CPU)
    with refuses(PolicyError, "some policy", got):
        projection.weight("some policy")


@pytest.mark.parametrize("name", ["o_proj", "out_proj", "dense", "c_proj"])
def test_a_projection_is_found_under_each_of_its_names(name: str) -> None:
    layer = nn.Linear(24, 8)
    module = nn.ModuleDict({"o_proj": nn.Linear(12, 8), name: layer, "qkv": nn.Linear(8, 24)})
    found = OutputProjection(module, 4, 6, torch.float32, CPU).weight("some policy")
    assert torch.equal(found.reshape(24, 8), layer.weight.T)
    assert found.data_ptr() == layer.weight.data_ptr()  # a view


def test_float8_weights_without_scales_are_refused_before_anything_runs() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    layer = list(projections(model))[2]
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    ran, cache = [], lava_cache(model)
    model.get_input_embeddings().register_forward_hook(lambda *_: ran.append(1))
    with refuses(UnsupportedError, "layers.2.self_attn.o_proj.weight", "float8_e4m3fn in a plain Linear"):
        feed(model, cache, [zoo.prompt(PROMPT)])
    assert not ran
    assert cache.get_seq_length() == 0


def test_lava_does_not_mind_a_projection_that_is_not_affine() -> None:
    model = zoo.tiny("llama")
    replace_projections(model, Gated)
    cache = lava_cache(lavakv.enable(model))
    feed(model, cache, [zoo.prompt(PROMPT)])
    assert cache.lengths().sum() > 0
