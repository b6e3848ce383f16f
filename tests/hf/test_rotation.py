"""Queries before their rotation are those that the model projected, and models where that cannot be are refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaAttention

import lavakv
from lavakv import UnsupportedError
from lavakv.eviction.shares import SequencePlan
from lavakv.hf.recorder import record
from lavakv.hf.rotation import LayerRotation
from lavakv.policy.registry import get_policy
from lavakv.scoring.rotation import Rotation
from tests.errors import assert_all_parts
from tests.hf import zoo

POLICY, TOKENS = get_policy("expected-attention"), 60
ROTATED = {
    "llama": "q_proj", "mistral": "q_proj", "qwen2": "q_proj", "granite": "q_proj", "mixtral": "q_proj",
    "qwen3": "q_norm", "qwen3_moe": "q_norm", "gemma3_text": "q_norm", "olmo2": "q_norm", "phi3": "qkv_proj",
    "smollm3": "q_proj", "gpt_oss": "q_proj",
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}


def _recorded(model: nn.Module) -> dict[int, Rotation]:
    """What a recording knows of each layer's rotation, checked against the queries that the layers projected."""
    projected: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, __, output, name=name: projected.update({name: output}))
    recording, plan = record(lavakv.enable(model), zoo.prompt(TOKENS)), SequencePlan(TOKENS, 0, 24, 8, POLICY)
    found = {}
    for layer, prompt in recording.layers.items():
        window = prompt.window(0, plan, None, layer)
        assert window.rotation is not None
        assert window.prompt is not None
        queries = window.rotation.undo(window.prompt.queries, 0).flatten(0, 1)
        name = next(n for n in projected if f".{layer}.self_attn.{ROTATED[model.config.model_type]}" in n)
        expected = projected[name].reshape(TOKENS, -1, queries.shape[2]) if projected[name].ndim == 3 else None
        expected = projected[name][0].transpose(0, 1) if expected is None else expected
        if expected.shape[0] != TOKENS:
            expected = expected.transpose(0, 1)
        torch.testing.assert_close(queries.transpose(0, 1), expected[:, : len(queries)], rtol=1e-5, atol=2e-6)
        found[layer] = window.rotation
    return found


@pytest.mark.parametrize("kind", ROTATED)
def test_queries_are_as_they_were_before(kind: str) -> None:
    rotations = _recorded(zoo.tiny(kind))
    assert rotations


@pytest.mark.parametrize("more", [{}, {"rope_parameters": YARN}], ids=["default", "yarn"])
def test_the_next_positions_are_those_of_the_model(more: dict) -> None:
    model = zoo.tiny("llama", **more)
    cos, sin = model.model.rotary_emb(torch.zeros(1), torch.arange(TOKENS, TOKENS + 7)[None])
    for rotation in _recorded(model).values():
        ahead = rotation.mean_ahead(7)
        torch.testing.assert_close(ahead.cos, cos[0].mean(dim=0, keepdim=True), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ahead.sin, sin[0].mean(dim=0, keepdim=True), rtol=1e-5, atol=1e-5)


def test_layers_of_different_kinds_have_frequencies_of_their_own() -> None:
    model = zoo.tiny("gemma3_text")
    rotary = model.model.rotary_emb
    assert not rotary.full_attention_inv_freq.equal(rotary.sliding_attention_inv_freq)
    for rotation in _recorded(model).values():
        assert rotation.frequencies.equal(rotary.full_attention_inv_freq)


def test_a_prefix_of_a_recording_is_rotated_as_the_prefix_alone() -> None:
    model, ids = lavakv.enable(zoo.tiny("llama")), zoo.prompt(TOKENS)
    plan = SequencePlan(40, 0, 24, 8, POLICY)
    whole, alone = record(model, ids).prefix(40), record(model, ids[:, :40])
    for layer in alone.layers:
        one, other = (prompt.layers[layer].window(0, plan, None, layer).rotation for prompt in (whole, alone))
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


REFUSED = {
    "gpt2": "none at layer 0",
    "gpt_neox": "one of 0.25 of the channels at layer 0",
    "gemma4_text": "one of type 'proportional'",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_configuration_that_does_not_fit_is_refused_before_anything_runs(kind: str) -> None:
    with pytest.raises(UnsupportedError, match=f"policy 'expected-attention' on model '{kind}': expected") as caught:
        lavakv.LavaCache(zoo.tiny(kind).config, budget=24, window=8, policy="expected-attention")
    assert_all_parts(caught.value)
    assert REFUSED[kind] in str(caught.value)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_rotation_that_depends_on_the_length_is_refused(kind: str) -> None:
    config = zoo.tiny("llama").config
    config.rope_parameters = {"rope_type": kind, "rope_theta": 1e4}
    with pytest.raises(UnsupportedError, match=f"got one of type '{kind}' at layer 0"):
        lavakv.LavaCache(config, budget=24, window=8, policy="expected-attention")


def test_code_that_rotates_otherwise_is_refused_at_the_layer() -> None:
    model, ids = lavakv.enable(zoo.tiny("cohere2")), zoo.prompt(TOKENS)
    cache = lavakv.LavaCache(model.config, budget=24, window=8, policy="expected-attention")
    with pytest.raises(UnsupportedError, match=r"policy 'expected-attention' at layer 1: .* other pairs of"):
        model(ids, past_key_values=cache)
    assert cache.get_seq_length() == 0


def test_layers_without_a_rotation_turn_nothing() -> None:
    rotations = _recorded(zoo.tiny("smollm3"))
    still = [layer for layer, rotation in rotations.items() if not bool(rotation.sin.any())]
    model = zoo.tiny("smollm3")
    assert still == [layer for layer in rotations if not model.config.no_rope_layers[layer]] != []


@pytest.mark.parametrize("name", ["expected-attention", "compactor"])
@pytest.mark.parametrize(("kind", "got"), [("gemma2", "a logit softcap of 5.0"), ("gpt_oss", "attention sinks")])
def test_what_the_formulas_do_not_have_is_refused(name: str, kind: str, got: str) -> None:
    model, ids = lavakv.enable(zoo.tiny(kind)), zoo.prompt(TOKENS)
    cache = lavakv.LavaCache(model.config, budget=24, window=8, policy=name)
    with pytest.raises(UnsupportedError, match=f"policy '{name}' at layer 1: .*, got {got}"):
        model(ids, past_key_values=cache)
    assert cache.get_seq_length() == 0


def apply_rotary_pos_emb(query, key, cos, sin):
    return modeling_llama.apply_rotary_pos_emb(query, key, cos, sin)


class _ScalesAfterwards(nn.Module):
    def forward(self, query_states, key_states, cos, sin):
        query_states, key_states = apply_rotary_pos_emb(query_states, key_states, cos, sin)
        if self.training:
            query_states = 2 * query_states
        return query_states, key_states


class _RotatesSometimes(nn.Module):
    def forward(self, query_states, key_states, cos, sin):
        if self.training:
            query_states, key_states = apply_rotary_pos_emb(query_states, key_states, cos, sin)
        return query_states, key_states


class _NeverRotates(nn.Module):
    def forward(self, query_states, key_states):
        return query_states, key_states


@pytest.mark.parametrize(
    ("attention", "embeddings", "got"),
    [
        (_ScalesAfterwards, (4, 8), "_ScalesAfterwards, which changes queries or keys after"),
        (_RotatesSometimes, (4, 8), "_RotatesSometimes, which rotates in some cases"),
        (_NeverRotates, (4, 8), "_NeverRotates, which does not rotate"),
        (nn.Identity, (4, 8), "Identity without apply_rotary_pos_emb"),
        (LlamaAttention, (4, 6), "cosines and sines of other shapes"),
        (LlamaAttention, (4, 8), "no frequency for each pair"),
    ],
)
def test_what_else_a_layer_may_do_is_refused(attention: type, embeddings: tuple[int, int], got: str) -> None:
    parts, decoder = (
        (torch.ones(1, *embeddings),) * 2,
        SimpleNamespace(rotary_emb=SimpleNamespace(inv_freq=torch.ones(3))),
    )
    module = attention.__new__(attention)
    with pytest.raises(UnsupportedError, match="here: expected queries and keys that are rotated by halves") as caught:
        LayerRotation(parts, module, decoder, 0).of_sequence(0, slice(0, 4), 8, "here")
    assert_all_parts(caught.value)
    assert got in str(caught.value)
