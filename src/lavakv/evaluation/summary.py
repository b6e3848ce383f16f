"""What a run reports about itself: scores, costs, and for the ablation what each kind of budget gains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lavakv.evaluation.ablation import ABLATED, FULL, ablation_summary
from lavakv.evaluation.cost import cost_summary
from lavakv.evaluation.scores import score_summary


def summarize(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Scores, cost and, where its policies are there, the ablation; ready for JSON."""
    policies = {record["policy"] for record in records}
    summary: dict[str, Any] = {"records": len(records), "scores": score_summary(records), "cost": cost_summary(records)}
    if FULL in policies and policies & ABLATED.keys():
        summary["ablation"] = ablation_summary(records)
    return summary
