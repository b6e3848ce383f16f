"""Decoding one token by a replay: when a step is captured, captured again, and done without."""

from __future__ import annotations

import os
from collections.abc import Hashable
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from lavakv.hf.cache import LavaCache
from lavakv.hf.graph.backend import DeviceGraph, backend_for
from lavakv.hf.graph.captured import CapturedStep
from lavakv.hf.graph.inputs import DecodeInputs, decodes_one_token
from lavakv.hf.graph.model_watch import ModelWatch
from lavakv.hf.graph.refusal import CannotCapture, warn_once

SWITCH = "LAVAKV_GRAPH"
MIN_STEPS = 8  # a capture takes as long as some steps without it
_MIN_COLUMNS_AHEAD, _MAX_COLUMNS_AHEAD = 128, 1024  # capacity to reserve; kernels look at all that is reserved


def decode(cache: LavaCache, model: nn.Module, kwargs: dict[str, Any], watch: ModelWatch) -> ModelOutput | None:
    """Decode one token by a replay, and capture before that where it is due.

    Args:
        cache: the cache among the arguments.
        model: called as `model(**kwargs)` without a graph.
        kwargs: of the model's forward.
        watch: notices changes of the model.

    Returns:
        What the model's forward would return, or None where the caller has to call it.
    """
    if not decodes_one_token(kwargs):
        return None
    graph, device = cache.decode_graph, kwargs["input_ids"].device
    if graph.num_expected is not None:
        graph.num_expected -= 1
    kind, key = backend_for(device), None
    if kind is None or not _is_ready(cache):
        return None
    try:
        inputs = DecodeInputs(kwargs)
        key = inputs.key(), id(model), watch.check(), _modes(device)
        if key == graph.refused_for:
            return None
        if graph.captured is None or not graph.captured.fits(cache, key):
            graph.free()  # before more memory is taken
            if not _pays(cache):
                return None
            graph.captured = _captured(cache, model, inputs, kind(device), key, watch)
            graph.num_captures += 1
    except CannotCapture as error:
        graph.refusal, graph.refused_for = str(error), key
        warn_once(graph.refusal)
        return None
    graph.num_replays += 1
    return graph.captured.replay(cache, inputs)


def _captured(
    cache: LavaCache, model: nn.Module, inputs: DecodeInputs, graph: DeviceGraph, key: Hashable, watch: ModelWatch
) -> CapturedStep:
    """Capture a step.

    Raises:
        CannotCapture: it cannot be; the cache is as before but for its spare capacity.
    """
    device = inputs.input_ids.device
    if watch.refusal is not None:
        raise CannotCapture(watch.refusal)
    if watch.device not in (None, device):
        raise CannotCapture(f"the inputs are on {device}, the model on {watch.device}")
    if torch.is_grad_enabled():
        raise CannotCapture("gradients are enabled; decode under `torch.inference_mode()`")
    try:
        cache.reserve_ahead(_num_columns_ahead(cache))
        return CapturedStep(model, cache, inputs, graph, key)
    except CannotCapture:
        raise
    except torch.OutOfMemoryError:
        raise CannotCapture("the device has too little free memory to capture a decode step") from None
    except Exception as error:  # whatever the model, its libraries or the driver raise
        text = (str(error).strip().splitlines() or [""])[0]
        raise CannotCapture(f"the step cannot be captured ({type(error).__name__}: {text})") from error


def _is_ready(cache: LavaCache) -> bool:
    """Whether a cache can take one token by a replay now: it is switched on, whole, and no round is due after it."""
    to_round = cache.tokens_to_round()
    return (
        cache.graph
        and os.environ.get(SWITCH) != "0"
        and cache.holds_whole_prompt
        and not cache.is_recording
        and (to_round is None or to_round > 0)
    )


def _pays(cache: LavaCache) -> bool:
    """Whether enough tokens are to come before the next capture."""
    to_round, expected = cache.tokens_to_round(), cache.decode_graph.num_expected
    return (expected is None or expected >= MIN_STEPS) and (to_round is None or to_round >= MIN_STEPS)


def _num_columns_ahead(cache: LavaCache) -> int:
    """Capacity for the tokens to come, as far as that is known."""
    tail, expected = cache.tail_length, cache.decode_graph.num_expected
    ahead = max(_MIN_COLUMNS_AHEAD, tail // 2) if expected is None else expected + 1
    return min(ahead, max(_MAX_COLUMNS_AHEAD, tail))


def _modes(device: torch.device) -> tuple[Any, ...]:
    """Modes of this thread that a forward depends on."""
    is_autocast = torch.is_autocast_enabled(device.type)
    return is_autocast, torch.get_autocast_dtype(device.type) if is_autocast else None
