"""`lavakv report`: what a run found, as a page, as Markdown and as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lavakv.cli import options
from lavakv.cli.console import print_json, results, working


def report(
    run: Annotated[Path, typer.Argument(help="Folder that `lavakv eval` wrote.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write into; the run's own if not given.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Policy that others are compared with: lava, or the first one.")
    ] = None,
    failures: Annotated[int, typer.Option(min=0, help="Most changed answers of each kind to show.")] = 24,
    as_json: options.Json = False,
) -> None:
    """Write a run's report: one self-contained page, the same as Markdown, and its pictures. Needs no model."""
    from lavakv.report.contents import report_of
    from lavakv.report.run import read_run
    from lavakv.report.writing import write_report

    with working(f"Reading {run}"):
        found = report_of(read_run(run), baseline, failures)
    with working("Writing the report"):
        files = write_report(found, run if out is None else out)
    if as_json:
        about = {"files": [str(file) for file in files], "findings": found.findings, "cautions": found.cautions}
        print_json({"records": len(found.analysis.run.records), **about})
        return
    for sentence in [*found.findings, *found.cautions]:
        results.print(sentence, highlight=False, markup=False)
    for file in files[:2]:
        results.print(str(file), style="bold", highlight=False, markup=False, soft_wrap=True)
