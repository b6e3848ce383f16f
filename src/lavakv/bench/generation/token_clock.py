"""The time at which `generate` chooses each token, noted without waiting for the device."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor


class TokenClock(LogitsProcessor):  # type: ignore[misc]
    """A logits processor that changes nothing and notes when it is called: once a token.

    On a GPU it records events in the stream that makes the logits, so the host is not held up and a token's time is the
    device's. Elsewhere it reads the wall clock.

    Args:
        device: where the model is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[Any] = []

    def start(self) -> None:
        """Note that the call begins."""
        self._marks = []
        self._mark()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Note that the logits `[B, vocabulary]` of a token are there, and return them."""
        self._mark()
        return scores

    def seconds(self) -> list[float]:
        """Seconds from the start to the first token, and between each two tokens; waits for the device."""
        if self._device.type != "cuda":
            return [later - earlier for earlier, later in pairwise(self._marks)]
        torch.cuda.synchronize(self._device)
        return [earlier.elapsed_time(later) / 1e3 for earlier, later in pairwise(self._marks)]

    def _mark(self) -> None:
        if self._device.type != "cuda":
            self._marks.append(time.perf_counter())
            return
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        self._marks.append(event)
