"""`lavakv doctor`: versions, compilers, kernels and the paths that would be taken, for bug reports."""

from __future__ import annotations

import typer

from lavakv.cli import options
from lavakv.cli.console import print_json, working


def doctor(as_json: options.Json = False) -> None:
    """Show versions, devices, kernels and settings of this machine, to paste into a bug report."""
    from lavakv.diagnosis.report import diagnose, lines

    with working("Checking this machine"):
        found = diagnose()
    if as_json:
        print_json(found)
        return
    for line in lines(found):
        typer.echo(line)
