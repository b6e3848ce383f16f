"""What scoring and placing a layer allocate in a real prefill, as the prompt grows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import lavakv
from lavakv.hf.layer import LavaLayer
from lavakv.hf.prompt import LayerPrompt
from lavakv.scoring.window import ScoringWindow
from tests.allocations import Allocations
from tests.hf import zoo

QUERY_HEADS, WINDOW, BLOCK = 4, 32, 2**14


def _watched(tokens: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> Allocations:
    """A prefill in blocks of 64 KiB, watched wherever our own code runs."""
    watch, take, window = Allocations(), LavaLayer.take_prompt, LayerPrompt.window

    def taken(self: LavaLayer, prompt: LayerPrompt) -> None:
        with watch:
            take(self, prompt)

    def small(self: LayerPrompt, *args: object) -> ScoringWindow:
        return replace(window(self, *args), max_block_elements=BLOCK)

    model = lavakv.enable(zoo.tiny("llama", dtype, max_position_embeddings=5000))
    cache = lavakv.LavaCache(model.config, budget=64, window=WINDOW)
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(LavaLayer, "take_prompt", taken)
        patch.setattr(LayerPrompt, "window", small)
        model(zoo.prompt(tokens), past_key_values=cache, logits_to_keep=1)
    return watch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_of_the_attention_s_size_exists_and_memory_grows_with_the_prompt(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = (_watched(tokens + WINDOW, dtype, monkeypatch) for tokens in (2048, 4096))
    attention = WINDOW * 4096 * QUERY_HEADS * 4
    assert short.peak < long.peak <= 2 * short.peak
    assert long.largest <= max(4 * BLOCK, QUERY_HEADS * 4096 * 8)  # a block, or int64 indices of pooling
    assert long.peak < attention / 4
