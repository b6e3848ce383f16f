"""All sections of a report, computed; HTML and Markdown are two ways to write them down."""

from __future__ import annotations

from dataclasses import dataclass

from lavakv.report.analysis import Analysis
from lavakv.report.run import Run
from lavakv.report.sections.ablation import Gained, ablation
from lavakv.report.sections.about import About, about
from lavakv.report.sections.blocks import ScoreTable
from lavakv.report.sections.cost import Costs, costs
from lavakv.report.sections.curves import Curve, curves
from lavakv.report.sections.duels import Duel, against_full, against_rivals
from lavakv.report.sections.failures import Failure, failures
from lavakv.report.sections.findings import cautions, findings
from lavakv.report.sections.gains import GainTable, gain_table
from lavakv.report.sections.needle import NeedleTask, needle_tasks
from lavakv.report.sections.shares import ShareMap, share_maps
from lavakv.report.sections.slices import slice_tables
from lavakv.report.sections.tables import group_table, task_tables

DEFAULT_FAILURES = 24


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the pages show; each attribute is described where its section is computed."""

    analysis: Analysis
    about: About
    findings: list[str]
    cautions: list[str]
    groups: ScoreTable
    tasks: list[ScoreTable]
    slices: list[ScoreTable]
    curves: list[Curve]
    rivals: list[Duel]
    gaps: list[Duel]
    gains: GainTable | None
    ablation: list[Gained]
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
        max_failures: most failures of each kind to show.

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
        slices=slice_tables(analysis),
        curves=curves(analysis),
        rivals=against_rivals(analysis),
        gaps=against_full(analysis),
        gains=gain_table(analysis),
        ablation=ablation(analysis),
        needles=needle_tasks(analysis),
        costs=cost,
        shares=share_maps(analysis),
        failures=shown,
        num_failures=num_failures,
    )
