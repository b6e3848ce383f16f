"""Mean scores of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Pair = tuple[str, str]


def mean_scores(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[Pair, list[float]]]:
    """Scores, 0 to 1, of every task (and length bucket or length within it) by policy and budget."""
    found: dict[str, dict[Pair, list[float]]] = {}
    for record in records:
        row = found.setdefault(row_name(record), {})
        row.setdefault((record["policy"], record["budget"]), []).append(record["score"])
    return found


def row_name(record: Mapping[str, Any]) -> str:
    """The table row that a record belongs to: its task, told apart by what the benchmark tells apart."""
    bucket = record["group"] or (f"{record['length']} tokens" if record["length"] is not None else "")
    return f"{record['task']} ({bucket})" if bucket else str(record["task"])


def score_summary(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One object a row, policy and budget: mean times 100 to two decimals, as benchmarks report it; ready for JSON."""
    return [
        {"row": row, "policy": policy, "budget": budget, "score": percent(values), "prompts": len(values)}
        for row, cells in mean_scores(records).items()
        for (policy, budget), values in cells.items()
    ]


def percent(values: list[float]) -> float:
    """Mean times 100, two decimals."""
    return round(100 * sum(values) / len(values), 2)
