"""What each policy adds to a prefill, measured alone: an evaluation's rows share their batch's time evenly."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lavakv.errors import LavaError, ResultsError
from lavakv.evaluation.jsonl import read_lines, write_lines
from lavakv.evaluation.runner import PromptRunner
from lavakv.evaluation.variant import Variant

FILE = "costs.jsonl"
_TIMES = ("prefill_seconds", "fill_seconds")


class PolicyCost(NamedTuple):
    """One policy on one prompt.

    Attributes:
        policy: its name.
        budget: in words, as in records.
        prompt_tokens: length of the prompt.
        prefill_seconds: reading it.
        fill_seconds: scoring, selecting and copying what is kept, and replaying the prompt where the policy needs it:
            median of the repetitions. None where the policy cannot serve this model.
        reason: why it cannot, or empty.
    """

    policy: str
    budget: str
    prompt_tokens: int
    prefill_seconds: float
    fill_seconds: float | None
    reason: str = ""

    @property
    def share(self) -> float | None:
        """Added seconds over the prefill's."""
        return None if self.fill_seconds is None else self.fill_seconds / self.prefill_seconds


def measure_costs(model: Any, prompt: Tensor, variants: Sequence[Variant], repeats: int = 3) -> Iterator[PolicyCost]:
    """Read a prompt, and fill a cache by each variant alone, with nothing computed for another one.

    On a CPU, seconds are those of the processor, which other work on the machine changes little.

    Args:
        model: a causal language model; enabled while it is used.
        prompt: int64 `[1, N]`.
        variants: policies with a budget each.
        repeats: how often to fill; the median counts.
    """
    clock = time.process_time if model.device.type == "cpu" else _device_clock
    start = clock()
    runner = PromptRunner(model, prompt)
    prefill = clock() - start
    for variant in variants:
        seconds, reason = [], ""
        for _ in range(repeats):
            alone = copy.copy(runner)
            alone.recording = runner.recording.without_results()
            start = clock()
            try:
                alone.fill([variant])
            except LavaError as error:
                reason = str(error)
                break
            seconds.append(clock() - start)
        fill = None if reason else median(seconds)
        yield PolicyCost(variant.label, variant.budget_label, runner.num_tokens, prefill, fill, reason)


def _device_clock() -> float:
    """Seconds, once an accelerator has done what it was given."""
    torch.accelerator.synchronize()
    return time.perf_counter()


def write_costs(folder: Path, costs: Sequence[PolicyCost]) -> None:
    """Write `costs.jsonl` into a folder.

    Raises:
        ResultsError: it cannot be written.
    """
    write_lines(folder / FILE, [cost._asdict() for cost in costs])


def read_costs(folder: Path) -> list[PolicyCost]:
    """The costs that a folder holds; none if it has no such file.

    Raises:
        ResultsError: a line that is no cost, named with its number.
    """
    file = folder / FILE
    if not file.is_file():
        return []
    return [_checked(cost, f"{file}, line {number}") for number, cost in read_lines(file).objects]


def _checked(cost: dict[str, Any], place: str) -> PolicyCost:
    kinds = {"policy": str, "budget": str, "prompt_tokens": int, "reason": str}
    times = [cost.get(name) for name in _TIMES]
    is_whole = cost.keys() >= set(PolicyCost._fields) and all(isinstance(cost[n], kind) for n, kind in kinds.items())
    if not is_whole or not all(_is_time(value) for value in times if value is not None) or times[0] is None:
        raise ResultsError(
            place, expected="a policy's cost", got=str(cost)[:60], fix="Remove the file and measure again."
        )
    return PolicyCost(**{name: cost[name] for name in PolicyCost._fields})


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
