"""Recording a prefill: a cache whose compressed layers note what they are given and keep it whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache as cached
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import LinearAttentionLayer

from lavakv.errors import InputError, UnsupportedError
from lavakv.hf.cache import LavaCache
from lavakv.hf.contract import cache_name
from lavakv.hf.enable import decoder_of
from lavakv.hf.layer import LavaLayer
from lavakv.hf.prompt import LayerPrompt
from lavakv.hf.recording import RecordedPrompt, Recording
from lavakv.policy.rules import Need
from lavakv.scoring.prompt import RowTotals


class _RecordingLayer(LavaLayer):
    """Notes its prompt instead of evicting it."""

    recorded: RecordedPrompt | None = None
    inputs: Tensor | None = None

    def take_prompt(self, prompt: LayerPrompt) -> None:
        """Note it, by reference."""
        self.recorded = RecordedPrompt.of(prompt)
        self.inputs = prompt.attention_inputs
        self.num_columns = prompt.keys.shape[2]


class _RecordingCache(LavaCache):
    """Good for one prefill.

    Attributes:
        keeps_inputs: whether what each attention is given is noted.
    """

    keeps_inputs = False

    def _needs(self, need: Need) -> bool:
        return need == "hidden_states" and self.keeps_inputs

    def new_layer(self, stock: Any, *args: Any) -> LavaLayer:
        """A layer that records.

        Raises:
            UnsupportedError: a layer with a recurrent state beside its keys and values.
        """
        if isinstance(stock, LinearAttentionLayer):
            raise UnsupportedError(
                "recording", expected="layers without recurrent states beside their keys and values",
                got=type(stock).__name__, fix="Give each policy a forward of its own.",
            )  # fmt: skip
        return _RecordingLayer(*args)


@torch.inference_mode(False)
@torch.no_grad()
def record_attention_inputs(decoder: nn.Module, input_ids: Tensor) -> dict[int, Tensor]:
    """What the attention of each compressed layer is given for a prompt, `[columns, hidden]` by index; reads it again.

    Args:
        decoder: an enabled model's.
        input_ids: int64 `[1, N]`.
    """
    cache = _RecordingCache(decoder.config)
    cache.keeps_inputs = True
    decoder(input_ids, **{cache_name(decoder): cache})
    found: dict[int, Tensor] = {}
    for index in cache.layer_indices:
        layer = cache.layers[index]
        assert isinstance(layer, _RecordingLayer)
        if layer.inputs is not None:
            found[index] = layer.inputs[0]
    return found


def _inputs_of(inputs: Callable[[], dict[int, Tensor]], index: int) -> Tensor | None:
    return inputs().get(index)


@torch.inference_mode(False)
@torch.no_grad()
def record(model: Any, input_ids: Tensor) -> Recording:
    """Read a prompt once, with an enabled model's own dense attention.

    Args:
        model: a causal language model that `lavakv.enable` was called on.
        input_ids: int64 `[1, N]`.

    Raises:
        InputError: more than one sequence.
        LavaError: what any forward with a `LavaCache` may raise.
    """
    if input_ids.shape[0] != 1:
        raise InputError(
            "input_ids", expected="one sequence", got=str(input_ids.shape[0]), fix="Record them one by one."
        )
    cache = _RecordingCache(model.config)
    start = time.perf_counter()
    output = model(input_ids, **{cache_name(decoder_of(model)): cache}, logits_to_keep=1)
    next_logits = output.logits[0, -1].clone()
    seconds = time.perf_counter() - start
    layers, others, totals = {}, {}, RowTotals()
    inputs = cached(partial(record_attention_inputs, decoder_of(model), input_ids))
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, _RecordingLayer):
            assert layer.recorded is not None
            layers[index] = replace(layer.recorded, totals=totals, read_inputs=partial(_inputs_of, inputs, index))
        else:
            others[index] = layer
    return Recording(decoder_of(model), input_ids, layers, others, next_logits, seconds, {}, {}, {})
