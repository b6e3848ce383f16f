"""`lavakv report`: the results of a run as a page, as Markdown and as figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lavakv.cli import options
from lavakv.cli.console import print_json, results, working
from lavakv.errors import InputError
from lavakv.files import require_writable


def report(
    run: Annotated[
        list[Path] | None,
        typer.Argument(help="Results folder of lavakv eval; with --page several, or --scores alone."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Output folder; the run's own by default.")] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Policy that the others are compared with; lava or the first by default."),
    ] = None,
    failures: Annotated[
        int, typer.Option(metavar="N", min=0, help="Maximum number of changed answers to show of each kind.")
    ] = 24,
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Compare the policies of all runs on one Markdown page instead."),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="With --page: tables of earlier runs' scores, drawn as well; those of the runs are added.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write a report of an evaluation as one self-contained page and as Markdown with figures. Needs no model."""
    from lavakv.report.page import require_jinja
    from lavakv.report.run import HTML, require_run

    runs = run or []
    for folder in runs:
        require_run(folder)
    require_jinja("lavakv report")
    if page is not None:
        _compare(runs, page, scores, baseline, as_json)
        return
    if scores is not None:
        raise InputError("--scores", expected="--page beside it", got="none", fix="Add --page FILE, or leave it out.")
    if len(runs) != 1:
        raise InputError("run", expected="one folder", got=str(len(runs)), fix="Give one, or --page for all of them.")
    target = runs[0] if out is None else out
    require_writable("--out", target / HTML, make_folder=True)
    _report(runs[0], target, baseline, failures, as_json)


def _report(run: Path, out: Path, baseline: str | None, failures: int, as_json: bool) -> None:
    """One run's report."""
    with working(f"Reading {run}"):
        from lavakv.report.contents import report_of
        from lavakv.report.run import read_run

        found = report_of(read_run(run), baseline, failures)
    with working("Writing the report"):
        from lavakv.report.writing import write_report

        files = write_report(found, out)
    if as_json:
        about = {"files": [str(file) for file in files], "findings": found.findings, "cautions": found.cautions}
        print_json({"records": len(found.analysis.run.records), **about})
        return
    for sentence in [*found.findings, *found.cautions]:
        results.print(sentence, highlight=False, markup=False)
    for file in files[:2]:
        results.print(str(file), style="bold", highlight=False, markup=False, soft_wrap=True)


def _compare(runs: Sequence[Path], page: Path, scores: Path | None, baseline: str | None, as_json: bool) -> None:
    """The page on policies, over all runs and the tables of earlier ones."""
    from lavakv.report.policies.page import require_page, write_page

    require_page("--page", page)
    require_writable("--page", page, make_folder=True)
    if not runs and (scores is None or not any(scores.glob("*.json"))):
        raise InputError(
            "run", expected="a results folder, or tables in --scores", got="none", fix="Run `lavakv eval` first."
        )
    with working("Reading the runs"):
        from lavakv.report.policies.contents import policies_page
        from lavakv.report.policies.runs import read_models
        from lavakv.report.policies.score_tables import write_tables

        models = read_models(runs, baseline, scores)
        tables = []
        if scores is not None and runs:  # the page is then drawn from them, so that it can be drawn again
            changed = [model for model in models if not model.is_from_tables]
            tables = [file for model in changed for file in write_tables(scores, *model.table)]
            models = read_models([], baseline, scores)
        found = policies_page(models)
    with working("Writing the page"):
        files = [*write_page(found, page), *tables]
    if as_json:
        print_json({"files": [str(file) for file in files], "cautions": found.cautions})
        return
    for line in found.cautions:
        results.print(line, highlight=False, markup=False)
    for file in files:
        results.print(str(file), style="bold", highlight=False, markup=False, soft_wrap=True)
