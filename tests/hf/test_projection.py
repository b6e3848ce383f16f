"""Output projections that are no plain linear layers: as what they do, not as what their weight looks like."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lavakv
from lavakv import PolicyError, UnsupportedError
from lavakv.hf.measured import measure
from lavakv.hf.projection import OutputProjection
from lavakv.hf.recorder import record
from lavakv.hf.weights import plain_weight
from tests.hf import zoo
from tests.hf.helpers import assert_like_new, feed, kept, lava_cache, refuses
from tests.hf.stand_ins import (
    Casting,
    Dequantised,
    Float8Blocks,
    Function,
    Gated,
    LowRank,
    QuantisedInput,
    ScaledFloat8,
    Sum,
    attentions,
    projections,
    replace_projections,
)

POLICIES = ("criticalkv", "defensivekv", "layer-defensivekv", "residual", "residual-far")
PROMPT = 60
CPU = torch.device("cpu")


def _subclass(plain: nn.Linear) -> nn.Module:
    plain.weight = nn.Parameter(Dequantised(plain.weight.detach()), requires_grad=False)
    return plain


KINDS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "tensor subclass": _subclass,
    "low-rank update": LowRank,
    "float8 with scales": ScaledFloat8,
    "stored as float8, cast by a hook": Casting.of,
}


def _merged(model: nn.Module) -> None:
    """Put what each projection does to single inputs into a plain linear layer."""

    def plain(layer: nn.Module) -> nn.Module:
        width, base = layer.in_features, layer(torch.zeros(1, layer.in_features))
        linear = nn.Linear(width, base.shape[1], bias=bool(base.any()))
        with torch.no_grad():
            linear.weight.copy_((layer(torch.eye(width)) - base).T)
            if linear.bias is not None:
                linear.bias.copy_(base[0])
        return linear

    replace_projections(model, plain)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_that_of_the_merged_model(kind: str, policy: str) -> None:
    wrapped, merged = zoo.tiny("llama"), zoo.tiny("llama")
    for model in (wrapped, merged):
        replace_projections(model, KINDS[kind])
    with torch.no_grad():
        _merged(merged)
    caches = []
    for model in (wrapped, merged):
        cache = lava_cache(lavakv.enable(model), policy=policy)
        feed(model, cache, [zoo.prompt(PROMPT, batch=2)])
        caches.append(kept(cache))
    assert all(plain_weight(layer) is None for layer in projections(wrapped))
    assert all(plain_weight(layer) is not None for layer in projections(merged))
    assert caches[0] == caches[1]


@pytest.mark.parametrize("kind", ["low-rank update", "float8 with scales"])
def test_what_is_ignored_would_change_what_is_kept(kind: str) -> None:
    """The right value differs from the one that reading the inner weight would give."""
    models = [zoo.tiny("llama"), zoo.tiny("llama")]
    replace_projections(models[0], KINDS[kind])
    found = []
    for model in models:
        cache = lava_cache(lavakv.enable(model), policy="criticalkv")
        feed(model, cache, [zoo.prompt(PROMPT)])
        found.append([cache.kept_positions(0, 0, head).tolist() for head in range(2)])  # before the outputs differ
    assert found[0] != found[1]


@pytest.mark.parametrize("policy", sorted(set(lavakv.policies()) - set(POLICIES)))
def test_policies_that_need_no_weight_never_look_at_the_projection(policy: str, monkeypatch) -> None:
    def looked(*_: object) -> None:
        raise AssertionError("the projection was looked at")

    monkeypatch.setattr("lavakv.hf.projection.plain_weight", looked)
    monkeypatch.setattr("lavakv.hf.projection.measure", looked)
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model, policy=policy)
    feed(model, cache, [zoo.prompt(PROMPT)])
    assert cache.lengths().sum() > 0


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "qwen3"])
def test_plain_weights_are_read_and_nothing_is_run(kind: str, monkeypatch) -> None:
    def run(*_: object) -> None:
        raise AssertionError("the projection was run")

    monkeypatch.setattr("lavakv.hf.projection.measure", run)
    model = lavakv.enable(zoo.tiny(kind))
    cache = lava_cache(model, policy="criticalkv")
    feed(model, cache, [zoo.prompt(PROMPT)])
    assert cache.lengths().sum() > 0


def test_one_layer_is_measured_once_for_all_sequences(monkeypatch) -> None:
    calls = []
    monkeypatch.setattr("lavakv.hf.projection.measure", lambda *given: calls.append(given[0]) or measure(*given))
    model = zoo.tiny("llama")
    replace_projections(model, LowRank)
    feed(lavakv.enable(model), lava_cache(model, policy="residual"), [zoo.prompt(PROMPT, batch=3)])
    assert calls == list(projections(model))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inputs", [1, 3, 48, 300])
def test_a_layer_without_bias_is_measured_to_the_bit(dtype: torch.dtype, inputs: int) -> None:
    torch.manual_seed(inputs)
    layer = nn.Linear(inputs, 20, bias=False).to(dtype)
    found = measure(layer, inputs, dtype, CPU)
    assert torch.equal(found.weight.to(dtype), layer.weight.T)
    assert found.is_finite
    assert found.departure <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [0.1, 1.0, 100.0])
def test_a_bias_costs_no_more_than_three_roundings(dtype: torch.dtype, size: float) -> None:
    """A large bias would bury the weights: what is added to 100 in bfloat16 is lost below a half.

    Lifted to the bias's size, product, sum and bias are rounded once each, by half of eps of the largest weight.
    """
    torch.manual_seed(0)
    layer = nn.Linear(64, 32).to(dtype)
    with torch.no_grad():
        layer.bias.copy_(size * torch.randn(32))
    found = measure(layer, 64, dtype, CPU)
    weight = layer.weight.detach().T.float()
    largest = float(weight.abs().max())
    assert float((found.weight - weight).abs().max()) <= 3 * torch.finfo(dtype).eps / 2 * largest
    assert found.departure <= 1


@pytest.mark.parametrize(
    "function",
    [torch.relu, torch.square, torch.tanh, torch.abs, lambda x: x.clamp(-1, 1), lambda x: x / x.norm()],
    ids=["relu", "square", "tanh", "abs", "clamp", "normalised"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_linear_departs_by_more_than_rounding(function, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 32).to(dtype)
    found = measure(nn.Sequential(Function(function), layer), 64, dtype, CPU)
    assert not found.departure <= 1


@given(
    inputs=st.integers(1, 300),
    outputs=st.integers(1, 70),
    rank=st.integers(1, 16),
    size=st.floats(-6, 6),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_what_is_affine_never_departs(
    inputs: int, outputs: int, rank: int, size: float, dtype: torch.dtype, seed: int
) -> None:
    """Whatever the sizes of weight, update and bias: no model is refused for its rounding."""
    torch.manual_seed(seed)
    layer = nn.Linear(inputs, outputs)
    layer.weight.data.mul_(2.0**size)
    down, up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)
    found = measure(Sum(layer, nn.Sequential(down, up)).to(dtype), inputs, dtype, CPU)
    assert found.is_finite
    assert found.departure <= 1


def test_chunks_give_what_one_call_gives(monkeypatch) -> None:
    torch.manual_seed(0)
    layer = LowRank(nn.Linear(48, 20))
    at_once = measure(layer, 48, torch.float32, CPU)
    monkeypatch.setattr("lavakv.hf.measured.BLOCK_NUMBERS", 48 * 7)
    assert torch.allclose(measure(layer, 48, torch.float32, CPU).weight, at_once.weight, rtol=0, atol=1e-6)


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


@pytest.mark.parametrize("wrap", [QuantisedInput, lambda layer: Float8Blocks(layer, least=1e-12)])
def test_inputs_that_are_quantised_cost_nothing(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """One-hot rows, and sums of equal numbers, are exact under any scale of a token or block."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 32, bias=False)
    found = measure(wrap(layer), 64, torch.float32, CPU)
    torch.testing.assert_close(found.weight, layer.weight.detach().T, rtol=4 * torch.finfo(torch.float32).eps, atol=0)
    assert found.departure <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_of_zeros_that_become_nan_are_gone_around(dtype: torch.dtype) -> None:
    """A row of small numbers in their place adds their sum, which is rounded with the weight and taken off again."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 32, bias=False).to(dtype)
    odd = Float8Blocks(layer)
    assert odd(torch.zeros(1, 64, dtype=dtype)).isnan().all()
    found = measure(odd, 64, dtype, CPU)
    assert found.is_finite
    assert found.departure <= 1
    weight = layer.weight.detach().T.float()
    size = weight.abs() + 2 * 2.0**-8 * weight.abs().sum(dim=0)
    bound = (64 if dtype == torch.float32 else 2) * torch.finfo(dtype).eps  # float32 sums 64 numbers, each rounded
    assert bool(((found.weight - weight).abs() <= bound * size).all())


def test_a_recording_serves_policies_with_and_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window is shared; only the policy that needs the weight has it measured, once a layer for all budgets."""
    calls = []
    monkeypatch.setattr("lavakv.hf.projection.measure", lambda *given: calls.append(given[0]) or measure(*given))
    model = zoo.tiny("llama")
    replace_projections(model, LowRank)
    recording = record(lavakv.enable(model), zoo.prompt(PROMPT))
    for policy, budget, num_calls in (("lava", 24, 0), ("criticalkv", 24, 3), ("lava", 30, 3), ("residual", 30, 3)):
        filled = recording.fill(lava_cache(model, policy=policy, budget=budget))
        assert len(calls) == num_calls
        with monkeypatch.context() as patch:
            patch.setattr("lavakv.hf.projection.measure", measure)
            direct = lava_cache(model, policy=policy, budget=budget)
            feed(model, direct, [zoo.prompt(PROMPT)])
        assert kept(filled) == kept(direct)


def test_lava_does_not_mind_a_projection_that_is_not_affine() -> None:
    model = zoo.tiny("llama")
    replace_projections(model, Gated)
    cache = lava_cache(lavakv.enable(model))
    feed(model, cache, [zoo.prompt(PROMPT)])
    assert cache.lengths().sum() > 0


def test_measuring_leaves_no_trace() -> None:
    """Neither gradients nor random numbers nor modes change."""
    layer = LowRank(nn.Linear(24, 12), dropout=0.5).eval()
    before = torch.get_rng_state()
    found = measure(layer, 24, torch.float32, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert not found.weight.requires_grad
    assert not layer.training
    assert all(parameter.grad is None for parameter in layer.parameters())


def _doubled(_module: nn.Module, _args: object, output: torch.Tensor) -> torch.Tensor:
    return output * 2


def test_hooks_that_change_the_output_count() -> None:
    model, doubled = zoo.tiny("llama"), zoo.tiny("llama")
    for layer in projections(model):
        layer.register_forward_hook(_doubled)
    with torch.no_grad():
        for layer in projections(doubled):
            layer.weight.mul_(2)
    caches = []
    for one in (model, doubled):
        cache = lava_cache(lavakv.enable(one), policy="residual")
        feed(one, cache, [zoo.prompt(PROMPT)])
        caches.append(kept(cache))
    assert caches[0] == caches[1]
