"""Scores that are not finite, from a policy or from the model's own numbers."""

from __future__ import annotations

import pytest
import torch

import lavakv
from lavakv import PolicyError
from lavakv.scoring.window import ScoringWindow
from tests.hf import zoo
from tests.hf.helpers import assert_like_new, feed, lava_cache, refuses


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("layer", [0, 2])
def test_scores_that_are_not_numbers(value: float, layer: int) -> None:
    def score(window: ScoringWindow) -> torch.Tensor:
        scores = torch.rand(window.queries.shape[0], window.num_evictable)
        if window.layer == layer:
            scores[-1, 3] = value
        return scores

    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model, policy=lavakv.Policy("broken-policy", "not finite", score))
    with refuses(PolicyError, f"'broken-policy' at layer {layer}", "NaN"):
        feed(model, cache, [zoo.prompt(40)])
    assert cache.get_seq_length() == 0
    assert cache.nbytes == 0


def test_model_whose_values_are_not_numbers() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    weight = model.model.layers[1].self_attn.v_proj.weight
    sound = weight.detach().clone()
    weight.data[0, 0] = float("nan")
    cache = lava_cache(model)
    with refuses(PolicyError, "'lava' at layer 1"):
        feed(model, cache, [zoo.prompt(40)])
    weight.data.copy_(sound)
    assert_like_new(model, cache, lava_cache(model))
