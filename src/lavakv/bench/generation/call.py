"""One timed call of `model.generate`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from lavakv.bench.clock import synchronize
from lavakv.bench.generation.token_clock import TokenClock
from lavakv.bench.memory import free_memory
from lavakv.hf.contract import cache_argument
from lavakv.hf.memory import layer_bytes

_MAX_WARNING = 240  # characters


@dataclass(frozen=True, slots=True)
class Call:
    """What one call of `generate` took and how it ran.

    Attributes:
        seconds: from the call to the first token, then between each two tokens.
        output: int64 `[B, columns]`, the text with the new tokens.
        kv_bytes: keys and values that the cache holds afterwards.
        peak_bytes: on a GPU, most memory in use, less what was in use before and is not the cache's; else None.
        bytes_beyond_cache: on a GPU, memory that stays taken from the device beyond the cache's own growth; else None.
        num_replays: CUDA graphs replayed; of lavakv's caches, tokens that were decoded by a replay.
        num_compiled: frames that `torch.compile` compiled.
        refusal: why lavakv's cache did not decode in a graph, or None.
        warnings: what users were warned of, without what only developers see.
    """

    seconds: list[float]
    output: Tensor
    kv_bytes: int
    peak_bytes: int | None
    bytes_beyond_cache: int | None
    num_replays: int
    num_compiled: int
    refusal: str | None
    warnings: list[str]


def cache_bytes(cache: Any) -> int:
    """Bytes of keys and values that a cache has allocated."""
    return sum(layer_bytes(layer) for layer in cache.layers)


@torch.no_grad()
def timed_generate(model: Any, ids: Tensor, cache: Any, num_new: int, compile_config: Any = None) -> Call:
    """Let a model generate greedily as a user would, with a mask of ones, and time every token.

    Args:
        model: a causal language model.
        ids: int64 `[B, columns]`, the whole text, at least one token more than the cache holds.
        cache: empty, or holding all but the last tokens.
        num_new: tokens to generate; the end-of-text token does not stop it.
        compile_config: transformers' `CompileConfig`, or None.
    """
    device = ids.device
    clock = TokenClock(device)
    options = {} if compile_config is None else {"compile_config": compile_config}
    if model.generation_config.eos_token_id is not None:
        options["min_new_tokens"] = num_new
    memory = _Memory(device, cache)
    compiled = _num_compiled()
    with _replays() as replays, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clock.start()
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), **cache_argument(model, cache), do_sample=False,
            max_new_tokens=num_new, logits_processor=LogitsProcessorList([clock]), **options,
        )  # fmt: skip
        seconds = clock.seconds()
    peak, beyond = memory.since(cache)
    graph = getattr(cache, "decode_graph", None)  # only lavakv's caches have one
    return Call(
        seconds, output, cache_bytes(cache), peak, beyond, len(replays) if graph is None else graph.num_replays,
        _num_compiled() - compiled, None if graph is None else graph.refusal,
        list(dict.fromkeys(str(one.message)[:_MAX_WARNING] for one in caught if issubclass(one.category, UserWarning))),
    )  # fmt: skip


def _num_compiled() -> int:
    """Frames compiled so far in this process; nothing is imported to find out."""
    dynamo: Any = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else dynamo.counters["frames"]["ok"]


class _Memory:
    """What the allocator of a GPU holds before a call, and how that has changed after it."""

    def __init__(self, device: torch.device, cache: Any) -> None:
        self._device, self._own = device, cache_bytes(cache)
        if device.type == "cuda":
            synchronize(device)
            free_memory(device)
            torch.cuda.reset_peak_memory_stats(device)
            self._others = torch.cuda.memory_allocated(device) - self._own
            self._reserved = torch.cuda.memory_reserved(device)

    def since(self, cache: Any) -> tuple[int | None, int | None]:
        """`peak_bytes` and `bytes_beyond_cache` of a `Call`."""
        if self._device.type != "cuda":
            return None, None
        peak = torch.cuda.max_memory_allocated(self._device) - self._others
        free_memory(self._device)
        grown = torch.cuda.memory_reserved(self._device) - self._reserved
        return peak, max(grown - (cache_bytes(cache) - self._own), 0)


@contextmanager
def _replays() -> Iterator[list[None]]:
    """A list that gets an element with every replay of a CUDA graph."""
    replays: list[None] = []
    graph: Any = torch.cuda.CUDAGraph
    replay = graph.replay

    def counted(self: Any) -> None:
        replays.append(None)
        replay(self)

    graph.replay = counted
    try:
        yield replays
    finally:
        graph.replay = replay
