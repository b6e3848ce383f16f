"""How long a run still takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lavakv.evaluation.executor import Assignment
from lavakv.evaluation.record_keys import PromptKey


class Forecast:
    """Seconds left, from what prefills and answers of this run have taken so far.

    Prefill time is taken to grow with the tokens of the prompts, an answer's with the most tokens it may have. With
    longest prompts first the guess is rather too high than too low.

    Args:
        waiting: what is still to be done.
        workers: how many prompts are worked on at a time.
    """

    def __init__(self, waiting: Sequence[Assignment], workers: int = 1) -> None:
        self._prompts = {prompt.key: prompt.num_tokens for prompt, _ in waiting}
        self._unread = sum(self._prompts.values())
        self._unwritten = sum(prompt.max_new_tokens * sum(map(len, groups)) for prompt, groups in waiting)
        self._limits = {prompt.key: prompt.max_new_tokens for prompt, _ in waiting}
        self._workers = workers
        self._read = self._written = 0
        self._reading = self._writing = 0.0

    def note(self, record: Mapping[str, Any]) -> None:
        """Count a finished record."""
        key, seconds = PromptKey.of(record), record["seconds"]
        tokens = self._prompts.pop(key, 0)
        if tokens:
            self._read, self._unread = self._read + tokens, self._unread - tokens
            self._reading += seconds["prefill"]
        limit = self._limits[key]
        self._written, self._unwritten = self._written + limit, self._unwritten - limit
        self._writing += seconds["fill"] + seconds["decode"] + seconds["score"]

    @property
    def seconds_left(self) -> float | None:
        """What is left, or None before anything is finished."""
        if not self._read or not self._written:
            return None
        reading = self._reading / self._read * self._unread
        return (reading + self._writing / self._written * self._unwritten) / self._workers
