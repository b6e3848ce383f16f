"""What each policy adds to a prefill, as a file beside the records: an evaluation's rows share their batch's time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lavakv.errors import ResultsError
from lavakv.evaluation.jsonl import read_lines, write_lines

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
    return [checked_cost(cost, f"{file}, line {number}") for number, cost in read_lines(file).objects]


def checked_cost(cost: dict[str, Any], place: str) -> PolicyCost:
    """A cost as parsed, checked.

    Args:
        cost: as parsed.
        place: its file and line number, for the error.

    Raises:
        ResultsError: it is no cost.
    """
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
