"""Keys that identify the prompts and records of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class PromptKey(NamedTuple):
    """Identifies a prompt within a run."""

    task: str
    example: str
    length: int | None
    depth: float | None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> PromptKey:
        """The key of the prompt that a record belongs to."""
        return cls(*(record[name] for name in cls._fields))


class RecordKey(NamedTuple):
    """Identifies a record within a run."""

    prompt: PromptKey
    policy: str
    budget: str
    mode: str

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> RecordKey:
        """The key of a record."""
        return cls(PromptKey.of(record), record["policy"], record["budget"], record["mode"])
