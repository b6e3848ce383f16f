"""Models that reuse one layer's keys and values in others, and models that look inside what the cache returns."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import lavakv
from lavakv import UnsupportedError
from tests.hf import zoo
from tests.hf.helpers import feed, kept, lava_cache, refuses, split
from tests.hf.test_batches import compare_with_rows_alone

_SHARED = {
    **zoo.common(),
    "head_dim": 8,
    "sliding_window": 8,
    "num_hidden_layers": 7,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", *["full_attention"] * 2] * 2 + ["full_attention"],
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 96,
}
SHARED = {
    "gemma3n_text": {"laurel_rank": 4, "altup_num_inputs": 2, "activation_sparsity_pattern": [0.0] * 7},
    "gemma4_text": {"global_head_dim": 8},
}
LOOKING_INSIDE = ["diffllama", "doge"]


def _model(kind: str, dtype: torch.dtype = torch.float32, **settings: object) -> nn.Module:
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this transformers does not know {kind}")
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings), dtype=torch.float32)
    return zoo.with_large_weights(model).eval().to(dtype)


@pytest.mark.parametrize("kind", SHARED)
def test_only_layers_of_their_own_are_compressed(kind: str) -> None:
    """Of full layers 1, 2, 4, 5, 6 the last two share the keys of layer 4, which therefore stays whole."""
    model, chunks = lavakv.enable(_model(kind, **_SHARED, **SHARED[kind])), split(zoo.prompt(72), [64, 1, 1, 3, 3])
    ragged, masked = lava_cache(model), lava_cache(model, store="masked")
    got, reference = feed(model, ragged, chunks), feed(model, masked, chunks)
    assert ragged.layer_indices == (1, 2)
    assert kept(ragged) == kept(masked)
    assert got.argmax(-1).equal(reference.argmax(-1))
    assert ragged.layers[4].get_seq_length() == 72
    assert ragged.layers[4].keys.shape[2] == 72


@pytest.mark.parametrize("kind", SHARED)
def test_padded_rows_equal_the_rows_alone(kind: str) -> None:
    """Layers that stay whole need masks of full length, which the compressed ones get too."""
    model = lavakv.enable(_model(kind, torch.float64, **_SHARED, **SHARED[kind]))
    compare_with_rows_alone(model, {}, eos_token_id=None)


@pytest.mark.parametrize("kind", LOOKING_INSIDE)
def test_attention_that_looks_inside_is_refused(kind: str) -> None:
    model = _model(kind, **zoo.common())
    before = model(zoo.prompt(40)).logits
    lavakv.enable(model)
    cache = lava_cache(model)
    with refuses(
        UnsupportedError, "attention", "of the cache's keys or values" if kind == "doge" else "on the cache's"
    ):
        feed(model, cache, [zoo.prompt(40)])
    assert cache.get_seq_length() == cache.nbytes == 0
    lavakv.disable(model)
    assert model(zoo.prompt(40)).logits.equal(before)
