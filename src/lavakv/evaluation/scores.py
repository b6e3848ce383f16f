"""Scores of a run: averaged, summarised with costs and ablation, and computed again without a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lavakv.errors import ResultsError
from lavakv.evaluation.ablation import ABLATED, FULL, ablation_summary
from lavakv.evaluation.cost import cost_summary
from lavakv.evaluation.folder import RunFolder
from lavakv.evaluation.record import Record
from lavakv.evaluation.records import FILE
from lavakv.tasks import get_task

PolicyBudget = tuple[str, str]


def summarize(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores, cost and, if its policies were evaluated, the ablation; ready for JSON."""
    policies = {record["policy"] for record in records}
    summary: dict[str, Any] = {"records": len(records), "scores": score_summary(records), "cost": cost_summary(records)}
    if FULL in policies and policies & ABLATED.keys():
        summary["ablation"] = ablation_summary(records)
    return summary


def score_summary(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One object a row, policy and budget: mean times 100 to two decimals, as benchmarks report it; ready for JSON."""
    return [
        {"row": row, "policy": policy, "budget": budget, "score": percent(values), "prompts": len(values)}
        for row, cells in scores_by_row(records).items()
        for (policy, budget), values in cells.items()
    ]


def scores_by_row(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[PolicyBudget, list[float]]]:
    """Scores, 0 to 1, of every task (and length bucket, length or mode within it) by policy and budget."""
    records = list(records)
    has_modes = len({record.get("mode") for record in records}) > 1
    found: dict[str, dict[PolicyBudget, list[float]]] = {}
    for record in records:
        row = found.setdefault(row_name(record) + (f", {record['mode']}" if has_modes else ""), {})
        row.setdefault((record["policy"], record["budget"]), []).append(record["score"])
    return found


def row_name(record: Mapping[str, Any]) -> str:
    """The table row that a record belongs to: its task, divided as the benchmark divides it."""
    bucket = record["group"] or (f"{record['length']} tokens" if record["length"] is not None else "")
    return f"{record['task']} ({bucket})" if bucket else str(record["task"])


def percent(values: list[float]) -> float:
    """Mean times 100, two decimals."""
    return round(100 * sum(values) / len(values), 2)


def rescore(folder: RunFolder) -> tuple[list[Record], int]:
    """Score every record again as its task scores today, e.g. after a scorer was fixed: all of them or none.

    Args:
        folder: held by this process.

    Returns:
        The records, and how many scores changed.

    Raises:
        LavaError: no records, a broken one, a task that is unknown today, or a full disk.
    """
    stored, records = folder.settings(), list(folder.records().values())
    if stored is None or not records:
        raise ResultsError(str(folder.path), expected=f"records in {FILE}", got="none", fix="Evaluate into it first.")
    changed = 0
    for record in records:
        task = get_task(record["task"])
        score = task.score(record["answers"], record["classes"], record["prediction"])
        changed += score != record["score"]
        record["score"], record["task_version"] = score, task.version
        stored["tasks"][record["task"]] = task.version
    folder.rewrite(records)
    folder.write_settings(stored)
    return records, changed
