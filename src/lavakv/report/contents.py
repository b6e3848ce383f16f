"""All sections of a report, computed; they are written as HTML and as Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from lavakv.report.analysis import Analysis
from lavakv.report.run import Run
from lavakv.report.sections.about import About, about
from lavakv.report.sections.comparisons import (
    BudgetGain,
    GainTable,
    PairedComparison,
    ablation,
    against_baseline,
    against_full,
    gain_table,
)
from lavakv.report.sections.cost import Costs, costs
from lavakv.report.sections.curves import Curve, curves
from lavakv.report.sections.failures import Failure, failures
from lavakv.report.sections.findings import cautions, findings
from lavakv.report.sections.needle import NeedleTask, needle_tasks
from lavakv.report.sections.score_table import ScoreTable
from lavakv.report.sections.shares import ShareMap, share_maps
from lavakv.report.sections.tables import group_table, length_tables, task_tables

DEFAULT_FAILURES = 24


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the pages show; each attribute is documented where its section is computed."""

    analysis: Analysis
    about: About
    findings: list[str]
    cautions: list[str]
    groups: ScoreTable
    tasks: list[ScoreTable]
    lengths: list[ScoreTable]
    curves: list[Curve]
    baseline_comparisons: list[PairedComparison]
    full_comparisons: list[PairedComparison]
    gains: GainTable | None
    ablation: list[BudgetGain]
    needles: list[NeedleTask]
    costs: Costs
    shares: list[ShareMap]
    failures: list[Failure]
    num_failures: dict[str, int]


def report_of(run: Run, baseline: str | None = None, max_failures: int = DEFAULT_FAILURES) -> Report:
    """Compute a report.

    Args:
        run: its records.
        baseline: the policy that others are compared with; `lava`, or the first one, if None.
        max_failures: maximum number of failures of each kind to show.

    Raises:
        InputError: the run has no such policy.
    """
    analysis = Analysis(run, baseline)
    cost = costs(analysis)
    shown, num_failures = failures(analysis, max_failures)
    return Report(
        analysis=analysis,
        about=about(analysis),
        findings=findings(analysis, cost),
        cautions=cautions(analysis),
        groups=group_table(analysis),
        tasks=task_tables(analysis),
        lengths=length_tables(analysis),
        curves=curves(analysis),
        baseline_comparisons=against_baseline(analysis),
        full_comparisons=against_full(analysis),
        gains=gain_table(analysis),
        ablation=ablation(analysis),
        needles=needle_tasks(analysis),
        costs=cost,
        shares=share_maps(analysis),
        failures=shown,
        num_failures=num_failures,
    )
