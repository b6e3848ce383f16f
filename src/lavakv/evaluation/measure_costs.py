"""Measuring what each policy adds to a prefill, alone."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from lavakv.errors import LavaError
from lavakv.evaluation.policy_costs import PolicyCost
from lavakv.evaluation.runner import PromptRunner
from lavakv.evaluation.variant import Variant


def measure_costs(
    model: Any, prompt: Tensor, variants: Sequence[Variant], repeats: int = 3, once_above: float = 0.25
) -> Iterator[PolicyCost]:
    """Read a prompt, and fill a cache by each variant alone, with nothing computed for another one.

    On a CPU, seconds are those of the processor, which other work on the machine changes little.

    Args:
        model: a causal language model; enabled while it is used.
        prompt: int64 `[1, N]`.
        variants: policies with a budget each.
        repeats: how often to fill; the median counts.
        once_above: share of the prefill above which a policy is filled once: it is slow, and far above the noise.
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
            if seconds[-1] > once_above * prefill:
                break
        fill = None if reason else median(seconds)
        yield PolicyCost(variant.label, variant.budget_label, runner.num_tokens, prefill, fill, reason)


def _device_clock() -> float:
    """Seconds, once an accelerator has done what it was given."""
    torch.accelerator.synchronize()
    return time.perf_counter()
