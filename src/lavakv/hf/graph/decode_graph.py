"""What a cache knows of its captured decode step."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lavakv.hf.graph.captured import CapturedStep


class DecodeGraph:
    """The captured decode step of a `LavaCache`, and what became of it; `decoding.py` makes and uses it.

    Attributes:
        num_captures: how often a step was captured.
        num_replays: tokens that were decoded by a replay.
        refusal: why the last step that could not be captured was not, or None.
        captured: the step, or None.
        refused_for: the kind of call that could not be captured, or None.
        num_expected: tokens that `generate` may still decode, or None where nobody said.
    """

    def __init__(self) -> None:
        self.num_captures = self.num_replays = 0
        self.refusal: str | None = None
        self.captured: CapturedStep | None = None
        self.refused_for: Hashable = None
        self.num_expected: int | None = None

    def __repr__(self) -> str:
        found = f"{self.num_captures} captures, {self.num_replays} replays"
        return f"DecodeGraph({found}{'' if self.refusal is None else f', refused: {self.refusal}'})"

    def __deepcopy__(self, _memo: dict[int, Any]) -> DecodeGraph:
        return DecodeGraph()

    def __reduce__(self) -> tuple[Any, ...]:
        return DecodeGraph, ()

    def expect(self, num_tokens: int | None) -> None:
        """Note how many tokens are to be decoded from here, None if that is not known; what was refused is retried."""
        self.num_expected, self.refused_for = num_tokens, None

    def free(self) -> None:
        """Free the captured step; the next one is captured again."""
        self.captured = None
