"""Output projections that are no plain linear layers: as what they do, not as what their weight looks like."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import lavakv
from lavakv.hf.measured import measure
from lavakv.hf.recorder import record
from lavakv.hf.weights import plain_weight
from tests.hf import zoo
from tests.hf.helpers import PROJECTING, feed, kept, lava_cache
from tests.hf.stand_ins import Casting, Dequantised, LowRank, ScaledFloat8, projections, replace_projections

POLICIES = PROJECTING
PROMPT = 60


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
