"""The attention of a decode step alone: one compressed layer against the full cache, the cut one and other kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lavakv.bench.attention_record import about, headlines
from lavakv.bench.backends import without_cudnn
from lavakv.bench.candidates import Candidate, Candidates
from lavakv.bench.clock import interleaved, seconds_of
from lavakv.bench.graph import captured
from lavakv.bench.machine import Machine
from lavakv.bench.ragged_case import LayerShape
from lavakv.bench.settings import Setting
from lavakv.hf.geometry import geometry_of

_LEAST_CALLS = 64
_ROUNDS = 7
_LONGEST_REASON = 160
_SAME_ENTRIES = ("lavakv", "torch_varlen", "flash_attn_varlen")


@dataclass(frozen=True)
class AttentionPart:
    """What is to be measured.

    Attributes:
        shape: of the layer.
        setting: prompt, batch and budget.
        window: entries every head keeps.
    """

    shape: LayerShape
    setting: Setting
    window: int

    @classmethod
    def of(cls, model: Any, setting: Setting, window: int) -> AttentionPart:
        """The first compressed layer of a model."""
        geometry = geometry_of(model.config)
        heads = model.config.get_text_config(decoder=True).num_attention_heads
        shape = LayerShape(heads, geometry.num_heads[0], geometry.head_dims[0], model.dtype, model.device)
        return cls(shape, setting, window)

    @torch.inference_mode()
    def measure(self, machine: Machine) -> dict[str, Any]:
        """Seconds a layer of every way that works here, in turns; ready for JSON."""
        with without_cudnn(self.shape.device):
            return self._measured(machine)

    def _measured(self, machine: Machine) -> dict[str, Any]:
        made = Candidates(self.shape, self.setting, self.window)
        candidates, left_out = _working(made)
        eager = interleaved({name: partial(_eager_seconds, c) for name, c in candidates.items()}, _ROUNDS)
        graphs, why_not = _graphs(candidates)
        graph = interleaved(graphs, _ROUNDS)
        lengths = made.case(0).store.past_counts()
        longest = (max(map(max, lengths)) + self.window) / self.setting.held
        return {
            **self.setting._asdict(),
            "longest_over_mean": longest,
            **headlines(eager, graph, candidates["lavakv"].nbytes, machine),
            "contenders": {name: about(c, eager[name], graph.get(name), machine) for name, c in candidates.items()},
            "errors": _errors(made, candidates),
            "left_out": left_out,
            "without_graph": why_not,
        }


def _working(made: Candidates) -> tuple[dict[str, Candidate], dict[str, str]]:
    """Ways that work on this device, and why others do not. That lavakv does not is an error."""
    candidates, left_out = {}, {}
    for name, make in made.ways.items():
        try:
            candidate = make()
            with candidate.around():
                candidate.calls[0]()
            candidates[name] = candidate
        except Exception as error:  # other people's kernels fail in ways of their own
            if name == "lavakv":
                raise
            left_out[name] = _reason(error)
    return candidates, left_out


def _pass_over(candidate: Candidate) -> tuple[Callable[[], None], int]:
    """Work that calls every copy in turn, and how many calls that is."""
    repeats = -(-_LEAST_CALLS // len(candidate.calls))

    def work() -> None:
        for _ in range(repeats):
            for call in candidate.calls:
                call()

    return work, repeats * len(candidate.calls)


def _eager_seconds(candidate: Candidate) -> float:
    work, calls = _pass_over(candidate)
    with candidate.around():
        return seconds_of(work, candidate.calls[0]().device) / calls


def _graphs(candidates: dict[str, Candidate]) -> tuple[dict[str, Callable[[], float]], dict[str, str]]:
    """On a GPU: replays of each candidate as a CUDA graph, without the interpreter's share; and why some cannot."""
    replays: dict[str, Callable[[], float]] = {}
    why_not: dict[str, str] = {}
    for name, candidate in candidates.items():
        device = candidate.calls[0]().device
        if device.type == "cuda":
            work, calls = _pass_over(candidate)
            try:
                with candidate.around():
                    replay = captured(work)
                replays[name] = partial(_replay_seconds, replay, calls, device)
            except Exception as error:
                why_not[name] = _reason(error)
    return replays, why_not


def _replay_seconds(replay: Callable[[], None], calls: int, device: torch.device) -> float:
    return seconds_of(replay, device) / calls


def _reason(error: Exception) -> str:
    """The first sentence of an error."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0].split(". ")[0][:_LONGEST_REASON]


def _errors(made: Candidates, candidates: dict[str, Candidate]) -> dict[str, float | None]:
    """Largest difference from float32 of the ways that attend to the same entries; None if it is not finite."""
    expected: Tensor = made.case(0).expected()
    same = [name for name in _SAME_ENTRIES if name in candidates]
    found = {name: float((candidates[name].calls[0]().float() - expected).abs().max()) for name in same}
    return {name: error if math.isfinite(error) else None for name, error in found.items()}
