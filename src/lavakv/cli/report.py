"""`lavakv report`: the results of a run as a page, as Markdown and as figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lavakv.cli import options
from lavakv.cli.console import print_json, results, working
from lavakv.files import require_writable


def report(
    run: Annotated[Path, typer.Argument(help="Results folder of lavakv eval.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Output folder; the run's own by default.")] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Policy that the others are compared with; lava or the first by default."),
    ] = None,
    failures: Annotated[
        int, typer.Option(metavar="N", min=0, help="Maximum number of changed answers to show of each kind.")
    ] = 24,
    as_json: options.Json = False,
) -> None:
    """Write a report of an evaluation as one self-contained page and as Markdown with figures. Needs no model."""
    from lavakv.report.page import require_jinja
    from lavakv.report.run import HTML, read_run, require_run

    require_run(run)
    require_jinja("lavakv report")
    require_writable("--out", (run if out is None else out) / HTML, make_folder=True)
    with working(f"Reading {run}"):
        from lavakv.report.contents import report_of

        found = report_of(read_run(run), baseline, failures)
    with working("Writing the report"):
        from lavakv.report.writing import write_report

        files = write_report(found, run if out is None else out)
    if as_json:
        about = {"files": [str(file) for file in files], "findings": found.findings, "cautions": found.cautions}
        print_json({"records": len(found.analysis.run.records), **about})
        return
    for sentence in [*found.findings, *found.cautions]:
        results.print(sentence, highlight=False, markup=False)
    for file in files[:2]:
        results.print(str(file), style="bold", highlight=False, markup=False, soft_wrap=True)
