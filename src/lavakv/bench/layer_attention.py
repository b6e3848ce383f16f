"""The attention of a decode step alone: one compressed layer, the full cache, the cut cache, other libraries."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lavakv.bench.attention_record import AttentionHeadlines, AttentionRecord, ImplementationRecord
from lavakv.bench.backends import without_cudnn
from lavakv.bench.clock import captured, interleaved, seconds_of
from lavakv.bench.implementations import Implementation, Implementations
from lavakv.bench.machine import Machine
from lavakv.bench.measured import reason_of
from lavakv.bench.ragged_case import LayerShape
from lavakv.bench.settings import Setting
from lavakv.hf.geometry import geometry_of

_MIN_CALLS = 64
_ROUNDS = 7
_SAME_ENTRIES = ("lavakv", "torch_varlen", "flash_attn_varlen")


@dataclass(frozen=True)
class LayerAttention:
    """A measurement of one layer's attention.

    Attributes:
        shape: of the layer.
        setting: prompt, batch and budget.
        window: last tokens, which every head keeps.
    """

    shape: LayerShape
    setting: Setting
    window: int

    @classmethod
    def of(cls, model: Any, setting: Setting, window: int) -> LayerAttention:
        """The first compressed layer of a model."""
        geometry = geometry_of(model.config)
        heads = model.config.get_text_config(decoder=True).num_attention_heads
        shape = LayerShape(heads, geometry.num_heads[0], geometry.head_dims[0], model.dtype, model.device)
        return cls(shape, setting, window)

    @torch.inference_mode()
    def measure(self, machine: Machine) -> AttentionRecord:
        """Seconds a layer of every implementation that works here, measured in turns."""
        with without_cudnn(self.shape.device):
            return self._measured(machine)

    def _measured(self, machine: Machine) -> AttentionRecord:
        made = Implementations(self.shape, self.setting, self.window)
        working, left_out = _working(made)
        eager = interleaved({name: partial(_eager_seconds, own) for name, own in working.items()}, _ROUNDS)
        graphs, without_graph = _graphs(working)
        graph = interleaved(graphs, _ROUNDS)
        lengths = made.case(0).store.past_counts()
        return AttentionRecord(
            self.setting,
            (max(map(max, lengths)) + self.window) / self.setting.held,
            AttentionHeadlines.of(eager, graph, working["lavakv"].nbytes, machine),
            {
                name: ImplementationRecord.of(own.nbytes, eager[name], graph.get(name, ()), machine)
                for name, own in working.items()
            },
            _errors(made, working),
            left_out,
            without_graph,
        )


def _working(made: Implementations) -> tuple[dict[str, Implementation], dict[str, str]]:
    """Implementations that work on this device, and why others do not. If lavakv's does not, that is an error."""
    implementations, left_out = {}, {}
    for name, make in made.all.items():
        try:
            implementation = make()
            with implementation.around():
                implementation.calls[0]()
            implementations[name] = implementation
        except Exception as error:  # third-party code may raise anything
            if name == "lavakv":
                raise
            left_out[name] = reason_of(error)
    return implementations, left_out


def _pass_over(implementation: Implementation) -> tuple[Callable[[], None], int]:
    """Work that calls every copy in turn, and its number of calls."""
    repeats = -(-_MIN_CALLS // len(implementation.calls))

    def work() -> None:
        for _ in range(repeats):
            for call in implementation.calls:
                call()

    return work, repeats * len(implementation.calls)


def _eager_seconds(implementation: Implementation) -> float:
    work, calls = _pass_over(implementation)
    with implementation.around():
        return seconds_of(work, implementation.calls[0]().device) / calls


def _graphs(implementations: dict[str, Implementation]) -> tuple[dict[str, Callable[[], float]], dict[str, str]]:
    """On a GPU: seconds of each implementation as a CUDA graph; and why some cannot be recorded."""
    replays: dict[str, Callable[[], float]] = {}
    why_not: dict[str, str] = {}
    for name, implementation in implementations.items():
        device = implementation.calls[0]().device
        if device.type == "cuda":
            work, calls = _pass_over(implementation)
            try:
                with implementation.around():
                    replay = captured(work)
                replays[name] = partial(_replay_seconds, replay, calls, device)
            except Exception as error:
                why_not[name] = reason_of(error)
    return replays, why_not


def _replay_seconds(replay: Callable[[], None], calls: int, device: torch.device) -> float:
    return seconds_of(replay, device) / calls


def _errors(made: Implementations, implementations: dict[str, Implementation]) -> dict[str, float | None]:
    """Largest difference from float32 of implementations on the same entries; None if it is not finite."""
    expected: Tensor = made.case(0).expected()
    same = [name for name in _SAME_ENTRIES if name in implementations]
    found = {name: float((implementations[name].calls[0]().float() - expected).abs().max()) for name in same}
    return {name: error if math.isfinite(error) else None for name, error in found.items()}
