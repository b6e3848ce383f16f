"""The `lavakv` command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lavakv._version import __version__
from lavakv.cli.bench import bench
from lavakv.cli.compare import compare
from lavakv.cli.demo import demo
from lavakv.cli.eval import evaluate
from lavakv.cli.generate import generate
from lavakv.cli.guard import guarded
from lavakv.cli.inspect import inspect
from lavakv.cli.models import models
from lavakv.cli.report import report

app = typer.Typer(
    name="lavakv",
    help="Long contexts in a KV cache that shrinks to a budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (generate, compare, inspect, report, bench, models, demo):
    app.command()(command)
app.command("eval")(evaluate)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Long contexts in a KV cache that shrinks to a budget."""


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    return guarded(lambda: app(arguments, standalone_mode=True))


def main() -> None:
    """Entry point."""
    sys.exit(run())
