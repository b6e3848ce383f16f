"""What one setting gave, and who hears of it meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


class Listener(Protocol):
    """Who is told how a run goes."""

    def say(self, line: str) -> None:
        """A line of the report."""

    def doing(self, what: str) -> None:
        """The next piece of work begins."""


@dataclass
class Measured:
    """What one setting gave.

    Attributes:
        prefill: seconds of every round, by contender.
        decode: seconds per token of every round, by contender.
        kv_bytes: after the prompt, by contender.
        prefill_peak: most bytes allocated at once while the prompt was read, beyond those before, by contender.
        nbytes_ratios: bytes of the compressed layers over those of the entries held: after the prompt, after all steps.
        lengths: least, mean and most entries of a head after the prompt.
        masked_by: how the masked contender hides entries, or None.
    """

    prefill: dict[str, list[float]] = field(default_factory=dict)
    decode: dict[str, list[float]] = field(default_factory=dict)
    kv_bytes: dict[str, int] = field(default_factory=dict)
    prefill_peak: dict[str, int] = field(default_factory=dict)
    nbytes_ratios: list[float] = field(default_factory=list)
    lengths: tuple[int, float, int] = (0, 0.0, 0)
    masked_by: str | None = None
