"""The `lavakv` command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from lavakv._version import __version__
from lavakv.cli.bench import bench
from lavakv.cli.chat import chat
from lavakv.cli.compare import compare
from lavakv.cli.compress import compress
from lavakv.cli.demo import demo
from lavakv.cli.doctor import doctor
from lavakv.cli.eval import evaluate
from lavakv.cli.examples import epilog
from lavakv.cli.generate import generate
from lavakv.cli.guard import guarded
from lavakv.cli.inspect import inspect
from lavakv.cli.models import models
from lavakv.cli.policies import policies
from lavakv.cli.report import report
from lavakv.cli.serve import serve

app = typer.Typer(name="lavakv", epilog=epilog("lavakv"), pretty_exceptions_enable=False, add_completion=False)
_COMMANDS: dict[str, Callable[..., int | None]] = {
    "generate": generate,
    "chat": chat,
    "compress": compress,
    "serve": serve,
    "compare": compare,
    "inspect": inspect,
    "eval": evaluate,
    "report": report,
    "bench": bench,
    "models": models,
    "policies": policies,
    "demo": demo,
    "doctor": doctor,
}
for name, command in _COMMANDS.items():
    app.command(name, epilog=epilog(name))(command)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Generate from long prompts with a compressed KV cache; compare, inspect and evaluate what is kept."""


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code; without arguments, show the help."""
    given = sys.argv[1:] if arguments is None else arguments
    return guarded(lambda: app(given or ["--help"], prog_name="lavakv", standalone_mode=False))


def main() -> None:
    """Entry point."""
    sys.exit(run())
