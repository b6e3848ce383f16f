"""Norms of the residual stream: those of what enters each layer, absent where there is no one stream."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

import lavakv
from lavakv import PolicyError
from lavakv.scoring.window import ScoringWindow
from tests.hf import zoo
from tests.hf.helpers import WINDOW, assert_like_new, feed, kept, lava_cache, position_score, refuses
from tests.hf.test_architectures import KINDS
from tests.hf.test_shared_layers import _SHARED, SHARED, _model

PROMPT = 40


def _spy(seen: list[ScoringWindow]) -> lavakv.Policy:
    def score(window: ScoringWindow) -> torch.Tensor:
        seen.append(window)
        return position_score(window)

    return lavakv.Policy("spy", "notes the windows", score)


@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_those_of_what_enters_the_layer(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind) if kind in zoo.TEXT else zoo.tiny_vision(kind))
    ids, seen = zoo.prompt(PROMPT, batch=2), []
    feed(model, lava_cache(model, policy=_spy(seen)), [ids])
    with torch.no_grad():  # still enabled: the oldest transformers' own sdpa drops Gemma-2's softcap
        streams = model(ids, output_hidden_states=True, use_cache=False).hidden_states
    assert seen
    for index, window in enumerate(seen):
        stream = streams[window.layer][index % 2, -WINDOW:]
        torch.testing.assert_close(window.residual_norms, torch.linalg.vector_norm(stream, dim=-1))


def test_tokens_whose_embedding_is_zero_are_left_out_and_a_window_of_them_is_refused() -> None:
    """Padding's embedding is zero in many models, and nothing keeps it out of a prompt."""
    model, ids = lavakv.enable(zoo.tiny("llama")), zoo.prompt(PROMPT)
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = 0
    ids[:, -2:] = 7
    cache = lava_cache(model, policy="residual")
    feed(model, cache, [ids])
    assert cache.budgets().head_entries.sum() == cache.lengths().sum()
    ids[:, -WINDOW:] = 7
    with refuses(PolicyError, "policy 'residual' at layer 0", "only zeros"):
        feed(model, lava_cache(model, policy="residual"), [ids])


def _altup() -> nn.Module:
    """Gemma 3n passes two streams from layer to layer, which no one norm describes."""
    return lavakv.enable(_model("gemma3n_text", **_SHARED, **SHARED["gemma3n_text"]))


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_layers_with_several_streams_are_refused_by_name(batch: int) -> None:
    model = _altup()
    cache = lava_cache(model, policy="residual")
    with refuses(PolicyError, "policy 'residual' at layer 1", "none"):
        feed(model, cache, [zoo.prompt(PROMPT, batch=batch)])
    assert cache.get_seq_length() == 0
    assert cache.nbytes == 0


def test_other_policies_do_not_mind_several_streams() -> None:
    """Rows of a batch were once looked up among the streams, of which there are fewer."""
    model, ids = _altup(), zoo.prompt(PROMPT, batch=3)
    together = lava_cache(model)
    feed(model, together, [ids])
    rows = [lava_cache(model) for _ in ids]
    for row, cache in zip(ids, rows, strict=True):
        feed(model, cache, [row[None]])
    alone = torch.cat([cache.lengths() for cache in rows], dim=1)
    assert together.lengths().equal(alone)
    assert sorted(kept(together)) == sorted(positions for cache in rows for positions in kept(cache))


def test_layers_that_no_hook_reaches_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("lavakv.hf.hooks")
    monkeypatch.setattr(module, "GradientCheckpointingLayer", nn.Bilinear)  # a class that the model has none of
    model = lavakv.enable(zoo.tiny("llama"))
    with refuses(PolicyError, "policy 'residual' at layer 0", "none"):
        feed(model, lava_cache(model, policy="residual"), [zoo.prompt(PROMPT)])
    assert_like_new(model, lava_cache(model), lava_cache(model))


def test_disable_leaves_no_hook() -> None:
    model = zoo.tiny("llama")
    for _ in range(2):
        lavakv.disable(lavakv.enable(lavakv.enable(model)))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
