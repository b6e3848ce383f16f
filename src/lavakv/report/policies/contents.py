"""All that the page on policies shows, computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from lavakv.report.analysis import Analysis
from lavakv.report.numbers import TIED
from lavakv.report.policies.about import about_model, cautions, options_of
from lavakv.report.policies.disagreement import Disagreement, disagreement
from lavakv.report.policies.runs import BenchmarkRuns, ModelRuns, by_benchmark
from lavakv.report.policies.standing import Standing, group_name, standings
from lavakv.report.sections.tables import by_group

MODE_NAMES = {"query-aware": "Question in the prompt", "query-agnostic": "Question later"}
Cell = tuple[str, str]  # mode and budget


class Budget(NamedTuple):
    """A kept fraction.

    Attributes:
        label: as in the records, e.g. "6.2%".
        name: for readers, e.g. "6.25 %".
        bytes_share: mean bytes of keys and values over the full cache's, in percent.
    """

    label: str
    name: str
    bytes_share: float


class ModelPart(NamedTuple):
    """One model's prompts.

    Attributes:
        name: the model's.
        about: prompts, tokens and how it ran, as lines of text.
        full: the full cache's score in each mode and group, in points.
    """

    name: str
    about: list[str]
    full: dict[str, dict[str, float]]


class BenchmarkPart(NamedTuple):
    """One benchmark's tables.

    Attributes:
        name: the benchmark's.
        models: that it was run with, by name, each with its own standings.
        model_order: their policies in order, by model and mode.
        baseline: the policy that others are compared with, or None.
        groups: of tasks, in order.
        standings: over all these models, by mode and budget.
        order: policies by their mean share over all budgets, best first, by mode.
        agreements: as `standings`, of the answers' agreement with the full cache's in place of their scores.
        disagreements: of divergence and score, by mode and budget.
    """

    name: str
    models: dict[str, dict[Cell, list[Standing]]]
    model_order: dict[str, dict[str, list[str]]]
    baseline: str | None
    groups: list[str]
    standings: dict[Cell, list[Standing]]
    order: dict[str, list[str]]
    agreements: dict[Cell, list[Standing]]
    disagreements: dict[Cell, Disagreement | None]


class PoliciesPage(NamedTuple):
    """Everything on the page.

    Attributes:
        models: each with its prompts.
        modes: in the order of the page.
        budgets: from large to small.
        benchmarks: each with its tables.
        costs: added seconds over the prefill's, by policy and model; None where unknown.
        left_out: policies that cannot serve a model, with the reason.
        cautions: limits of the results.
        options: how prompts and answers were limited, as a sentence; or empty.
    """

    models: list[ModelPart]
    modes: list[str]
    budgets: list[Budget]
    benchmarks: list[BenchmarkPart]
    costs: dict[str, dict[str, float | None]]
    left_out: list[tuple[str, str, str]]
    cautions: list[str]
    options: str

    def cost(self, policy: str) -> float:
        """Mean over the models that it was measured with, in percent of the prefill; NaN if unknown."""
        known = [each for each in self.costs.get(policy, {}).values() if each is not None]
        return 100 * fmean(known) if known else math.nan


def policies_page(models: Sequence[ModelRuns]) -> PoliciesPage:
    """Compute the page.

    Args:
        models: with their runs, at least one.
    """
    analyses = [model.analysis for model in models]
    modes = [mode for mode in MODE_NAMES if any(mode in one.configurations.modes for one in analyses)]
    budgets = _budgets(analyses)
    cells = [(mode, budget.label) for mode in modes for budget in budgets]
    benchmarks = by_benchmark(models)
    return PoliciesPage(
        [_part(model) for model in models],
        modes,
        budgets,
        [_benchmark(benchmark, cells) for benchmark in benchmarks],
        _costs(models),
        [(model.name, cost.policy, cost.reason) for model in models for cost in model.costs.values() if cost.reason],
        [line for benchmark in benchmarks for line in cautions(benchmark)],
        options_of(analyses),
    )


def _benchmark(runs: BenchmarkRuns, cells: Sequence[Cell]) -> BenchmarkPart:
    """One benchmark's tables."""
    together = _standings(runs.models, cells)
    alone = {model.name: _standings([model], cells) for model in runs.models}
    groups = dict.fromkeys(group_name(own) for model in runs.models for own in by_group(model.analysis.boards))
    return BenchmarkPart(
        runs.name,
        alone,
        {name: _orders(found) for name, found in alone.items()},
        runs.baseline,
        list(groups),
        together,
        _orders(together),
        _standings([model.by_agreement() for model in runs.models], cells),
        {cell: disagreement(found) for cell, found in together.items()},
    )


def _standings(models: Sequence[ModelRuns], cells: Sequence[Cell]) -> dict[Cell, list[Standing]]:
    return {(mode, budget): standings(models, budget, mode) for mode, budget in cells}


def _orders(found: dict[Cell, list[Standing]]) -> dict[str, list[str]]:
    """Policies by mode, see `_order`."""
    modes = dict.fromkeys(mode for mode, _ in found)
    return {mode: _order([own for cell, own in found.items() if cell[0] == mode]) for mode in modes}


def _budgets(analyses: Sequence[Analysis]) -> list[Budget]:
    """All kept fractions, from large to small; their names are those that were asked for."""
    asked: dict[str, str] = {}
    shares: dict[str, list[float]] = {}
    for analysis in analyses:
        for record in analysis.run.records:
            keep = (record["run"].get("arguments") or {}).get("keep") or []
            asked |= {f"{each:.1%}".replace(".0%", "%"): f"{100 * each:g}{TIED}%" for each in keep}
            if record["budget"] != "all" and record["full_kv_bytes"]:
                share = 100 * record["kv_bytes"] / record["full_kv_bytes"]
                shares.setdefault(record["budget"], []).append(share)
    names = {label: asked.get(label, label.replace("%", f"{TIED}%")) for label in shares}
    found = [Budget(label, names[label], fmean(each)) for label, each in shares.items()]
    return sorted(found, key=lambda budget: -budget.bytes_share)


def _part(model: ModelRuns) -> ModelPart:
    analysis = model.analysis
    full = {
        one.mode: {group_name(own): analysis.score(one, own).mean for own in by_group(analysis.boards)}
        for one in analysis.configurations.full
    }
    return ModelPart(model.name, about_model(analysis), full)


def _order(found: Sequence[Sequence[Standing]]) -> list[str]:
    """Policies by their mean share over budgets, those that lack one last."""
    shares: dict[str, list[float]] = {}
    for own in found:
        for one in own:
            shares.setdefault(one.policy, []).append(one.share.mean)
    most = max(map(len, shares.values()), default=0)
    return sorted(shares, key=lambda policy: (len(shares[policy]) < most, -fmean(shares[policy])))


def _costs(models: Sequence[ModelRuns]) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for model in models:
        for policy in model.analysis.configurations.policies:
            cost = model.costs.get(policy)
            found.setdefault(policy, {})[model.name] = None if cost is None else cost.share
    return found
