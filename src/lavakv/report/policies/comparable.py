"""Which records of a model and a benchmark compare: every policy that is shown has answered the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lavakv.evaluation.record import Record
from lavakv.report.configuration import Configuration
from lavakv.report.run import ExampleKey, example_key


class Comparable(NamedTuple):
    """What compares.

    Attributes:
        records: of these prompts and policies, in their order.
        num_dropped: prompts, each mode counted, that less than half of the policies and budgets have answered.
        dropped: policies that lack one of the other prompts, at a budget at least.
    """

    records: list[Record]
    num_dropped: int
    dropped: list[str]


def comparable(records: Sequence[Record]) -> Comparable:
    """Leave out prompts that few policies answered, and of the others the policies that lack one.

    Args:
        records: of one model and benchmark.
    """
    answered: dict[tuple[ExampleKey, str], set[Configuration]] = {}
    every: dict[str, set[Configuration]] = {}
    for record in records:
        own = Configuration.of(record)
        answered.setdefault((example_key(record), record["mode"]), set()).add(own)
        every.setdefault(record["mode"], set()).add(own)
    shown = {prompt: found for prompt, found in answered.items() if 2 * len(found) >= len(every[prompt[1]])}
    lacking = {own for (_, mode), found in shown.items() for own in every[mode] - found}
    kept = [
        record
        for record in records
        if (example_key(record), record["mode"]) in shown and Configuration.of(record) not in lacking
    ]
    return Comparable(kept, len(answered) - len(shown), list(dict.fromkeys(own.policy for own in sorted(lacking))))
