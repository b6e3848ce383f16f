"""Compares the outcomes with our cache to the list of known refusals and to the outcomes without our cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers_suite.refusals import Refusal, accepting
from transformers_suite.run import Outcome

_HUB = {
    "OfflineModeIsEnabled",
    "LocalEntryNotFoundError",
}  # in the error chain of tests that need the hub
_TEXTS = {
    "passed": "passed with a LavaCache",
    "passed_stock": "passed without a DynamicCache to replace",
    "refused": "refused as listed",
    "skipped": "skipped",
    "hub": "need the hub",
    "stock_fails": "also fail without lavakv",
    "uncollected": "files that cannot be imported here",
    "faults": "FAULTS",
}


@dataclass
class Verdict:
    """The result of a run.

    Attributes:
        counts: tests by outcome, under the names of `_TEXTS`.
        compared: outputs of `generate` that were compared with the stock cache's.
        refused: tests by the entry that accepts them.
        faults: unexplained failures, with their errors.
        stale: entries of the list that no test ended in although tests they concern ran with our cache.
        stock: why lavakv left the stock cache in place, with the number of tests.
        uncollected: why files cannot be imported, with the number of files.
    """

    counts: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    refused: Counter[Refusal] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)
    stale: list[Refusal] = field(default_factory=list)
    stock: Counter[str] = field(default_factory=Counter)
    uncollected: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> bool:
        """Whether the run fails: a fault, or no test that used our cache."""
        return bool(self.faults) or not self.counts["passed"] + self.counts["refused"]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        counts = {name: self.counts[name] for name in _TEXTS}
        return {**counts, "compared": self.compared, "stale": [f"{e.tests}: {e.message}" for e in self.stale]}


def needing_stock_run(outcomes: Mapping[str, Outcome], refusals: Sequence[Refusal]) -> list[str]:
    """The tests whose outcome can be assessed only after a run without our cache."""
    return [
        test
        for test, found in outcomes.items()
        if (found.outcome == "failed" or (found.outcome == "skipped" and found.caches))
        and not _needs_hub(found)
        and not accepting(refusals, test, found)
    ]


def verdict_of(
    outcomes: Mapping[str, Outcome], stock: Mapping[str, Outcome], refusals: Sequence[Refusal], complete: bool = True
) -> Verdict:
    """Assess the outcome of every test.

    Args:
        outcomes: with our cache, by test.
        stock: without it; all tests of `needing_stock_run`.
        refusals: what lavakv is known to refuse.
        complete: whether all tests ran; only then are entries for tests of any name checked.
    """
    verdict = Verdict()
    for test, found in outcomes.items():
        verdict.compared += found.compared
        verdict.stock.update(found.stock)
        entry = accepting(refusals, test, found)
        if entry is not None:
            verdict.refused[entry] += 1
        kind, why = ("refused", "") if entry is not None else _kind(found, stock.get(test))
        verdict.counts[kind] += 1
        if kind == "faults":
            verdict.faults[test] = why
        if kind == "uncollected":
            verdict.uncollected[why] += 1
    used = [test for test, found in outcomes.items() if found.caches and found.outcome in ("passed", "failed")]
    unmet = [entry for entry in refusals if not verdict.refused[entry] and (complete or entry.tests != "*")]
    verdict.stale = [entry for entry in unmet if any(entry.concerns(test) for test in used)]
    return verdict


def _kind(found: Outcome, stock: Outcome | None) -> tuple[str, str]:
    """The kind of outcome of a test that no entry accepts, and the reason if it needs attention."""
    if found.outcome == "passed":
        return ("passed" if found.caches else "passed_stock"), ""
    if _needs_hub(found):
        return "hub", ""
    if found.outcome == "uncollected":
        return "uncollected", found.errors[0][2].strip().splitlines()[-1]
    if stock is not None and stock.outcome == "failed":
        return "stock_fails", ""
    if found.outcome == "skipped" and (not found.caches or (stock is not None and stock.outcome == "skipped")):
        return "skipped", ""
    refusal = next((f"{ours}: {text}" for _, ours, text in found.errors if ours), None)
    error = f"unlisted refusal: {refusal}" if refusal else ": ".join(found.errors[0][::2])
    without = "not run" if stock is None else stock.outcome
    return "faults", f"{found.outcome} with a LavaCache ({without} without): {error}"


def _needs_hub(found: Outcome) -> bool:
    return found.outcome == "failed" and any(name in _HUB for name, _, _ in found.errors)


def summary(verdict: Verdict) -> str:
    """The table of outcomes, the refusals, entries that can be removed, and the faults as text."""
    lines = [f"{verdict.counts[name]:7}  {text}" for name, text in _TEXTS.items()]
    lines.append(f"{verdict.compared:7}  outputs of generate compared with DynamicCache's")
    lines += ["", "Refused as listed:"] if verdict.refused else []
    lines += [f"{count:7}  {entry.error}: {entry.reason}" for entry, count in verdict.refused.most_common()]
    lines += ["", "DynamicCache left in place:"] if verdict.stock else []
    lines += [f"{count:7}  {text}" for text, count in verdict.stock.most_common()]
    lines += ["", "Cannot be imported:"] if verdict.uncollected else []
    lines += [f"{count:7}  {text}" for text, count in verdict.uncollected.most_common()]
    lines += ["", "Can be removed from the list, no test ends in them:"] if verdict.stale else []
    lines += [f"         {entry.tests}  {entry.error}: {entry.message}" for entry in verdict.stale]
    lines += ["", "Faults:"] if verdict.faults else []
    lines += [f"  {test}\n      {why}" for test, why in verdict.faults.items()]
    return "\n".join(lines)
