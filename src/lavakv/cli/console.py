"""Where the command line writes: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

results = Console()
notes = Console(stderr=True)


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner while something slow runs; nothing when stderr is no terminal."""
    if notes.is_terminal:
        with notes.status(what):
            yield
    else:
        yield


def progress(*more: ProgressColumn) -> Progress:
    """A progress bar on stderr, off when it is no terminal; with more columns at its end."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    to_terminal = results.is_terminal  # a file gets what is printed meanwhile, not the bar's own terminal
    return Progress(
        *columns, *more, console=notes, disable=not notes.is_terminal, transient=True, redirect_stdout=to_terminal
    )


def deprecated(old: str, new: str) -> None:
    """Say on stderr that an option has another name now."""
    notes.print(f"lavakv: {old} is deprecated, use {new}", style="yellow", highlight=False, markup=False)


def print_json(record: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False))


def human_bytes(count: int) -> str:
    """Bytes in binary units, as in "23.6 MiB"."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
