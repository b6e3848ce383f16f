"""The measurements of one setting, the listener that reports progress, and reasons why something is missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

_MAX_REASON_LENGTH = 160


class Listener(Protocol):
    """Receives the progress of a run."""

    def say(self, line: str) -> None:
        """A line of the report."""

    def doing(self, what: str) -> None:
        """The next measurement begins."""


@dataclass
class Measured:
    """The measurements of one setting.

    Attributes:
        prefill: seconds of every round, by configuration.
        decode: seconds per token of every round, by configuration.
        kv_bytes: after the prompt, by configuration.
        prefill_peak: peak bytes while the prompt was read, above those allocated before, by configuration.
        nbytes_ratios: bytes of the compressed layers over those of the entries held: after the prompt, after all steps.
        lengths: least, mean and most entries of a head after the prompt.
        masked_by: how the masked configuration hides entries, or None.
    """

    prefill: dict[str, list[float]] = field(default_factory=dict)
    decode: dict[str, list[float]] = field(default_factory=dict)
    kv_bytes: dict[str, int] = field(default_factory=dict)
    prefill_peak: dict[str, int] = field(default_factory=dict)
    nbytes_ratios: list[float] = field(default_factory=list)
    lengths: tuple[int, float, int] = (0, 0.0, 0)
    masked_by: str | None = None


def reason_of(error: Exception) -> str:
    """The first sentence of an error."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0].split(". ")[0][:_MAX_REASON_LENGTH]
