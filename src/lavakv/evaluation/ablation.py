"""The paper's two insights, tested on a run: layer budgets matter for generation, head budgets for extraction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lavakv.evaluation.bootstrap import Estimate, estimate, resample

FULL = "lava"
ABLATED = {"lava-uniform-layers": "layer budgets", "lava-uniform-heads": "head budgets"}
KINDS = {
    "Code completion": "generation",
    "Summarization": "generation",
    "Single-document QA": "extraction",
    "Multi-document QA": "extraction",
    "Synthetic": "extraction",
    "Retrieval": "extraction",
}
INSIGHT = {("lava-uniform-layers", "generation"), ("lava-uniform-heads", "extraction")}
KIND_NAMES = ("generation", "extraction")

Scores = dict[str, dict[tuple[Any, ...], float]]


def ablation_summary(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each kind of budget gains, in points of 100, with 95 % intervals; ready for JSON.

    The gain is `lava`'s score less that of `lava` without these budgets, on the same prompts: the mean over tasks of
    the mean over prompts. Intervals, and when they are unreliable: `lavakv.evaluation.bootstrap`.
    """
    records = list(records)
    has_modes = len({record.get("mode") for record in records}) > 1
    scores: dict[tuple[str, str, str], Scores] = {}
    for record in records:
        budget = f"{record['budget']}, {record['mode']}" if has_modes else record["budget"]
        for kind in (task_kind(record["task_group"], record["task"]), record["task_group"]):
            tasks = scores.setdefault((budget, kind, record["policy"]), {})
            prompt = (record["example"], record["length"], record["depth"])
            score = math.nan if record["score"] is None else 100 * record["score"]
            tasks.setdefault(record["task"], {})[prompt] = score
    found = [
        _gain(budget, kind, ablated, full, scores[budget, kind, ablated])
        for (budget, kind, policy), full in scores.items()
        for ablated in ABLATED
        if policy == FULL and (budget, kind, ablated) in scores
    ]
    return sorted((gain for gain in found if gain is not None), key=_place)


def task_kind(group: str, task: str) -> str:
    """Generation or extraction; RULER and needles are extraction, other benchmarks' groups may be "other"."""
    if task.startswith(("ruler_", "needle")):
        return "extraction"
    return KINDS.get(group, "other")


def holds(gain: Estimate) -> str:
    """Whether a gain is more than chance explains: "yes", "reversed", or "not settled"."""
    return {"ahead": "yes", "behind": "reversed"}.get(gain.verdict, "not settled")


def _gain(budget: str, kind: str, ablated: str, full: Scores, without: Scores) -> dict[str, Any] | None:
    """One row; None if no prompt was answered by both."""
    tasks = []
    for task, prompts in full.items():
        others = without.get(task, {})
        gains = [score - others.get(prompt, math.nan) for prompt, score in prompts.items()]
        tasks.append(resample(np.array([gains]), task))
    gain = estimate(tasks, 0)
    if not gain.known:
        return None
    return {
        "budget": budget,
        "kind": kind,
        "without": ABLATED[ablated],
        "gain": round(gain.mean, 2),
        "interval": [round(gain.low, 2), round(gain.high, 2)],
        "tasks": sum(int(task.counts[0]) > 0 for task in tasks),
        "prompts": gain.num,
        "insight": (ablated, kind) in INSIGHT,
        "holds": holds(gain),
    }


def _place(gain: Mapping[str, Any]) -> int:
    """Generation and extraction first, then groups of tasks, each in the order in which they come."""
    return KIND_NAMES.index(gain["kind"]) if gain["kind"] in KIND_NAMES else len(KIND_NAMES)
