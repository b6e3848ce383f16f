"""`lavakv models`: the default model, its folder and its size."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from lavakv.cli import options
from lavakv.cli.console import human_bytes, print_json, results, working


def models(
    fetch: Annotated[bool, typer.Option("--fetch", help="Download the default model if it is missing.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show the default model and where it is stored. Other models are named by id, directory or GGUF file."""
    from lavakv.models.default import default_model_dir, fetched_model_dir
    from lavakv.models.home import folder_bytes, home
    from lavakv.models.registry import SMOLLM2

    if fetch:
        with working(f"Fetching {SMOLLM2.name} from the package registry and converting it, about a minute"):
            default_model_dir()
    folder = fetched_model_dir()
    size = None if folder is None else folder_bytes(folder)
    if as_json:
        place = str(folder or home() / SMOLLM2.name)
        about = {"name": SMOLLM2.name, "summary": SMOLLM2.summary, "fetched": folder is not None}
        print_json({**about, "folder": place, "bytes": size})
        return
    table = Table(show_header=False)
    table.add_row("default model", SMOLLM2.name)
    table.add_row("what", SMOLLM2.summary)
    table.add_row("from", f"package {SMOLLM2.requirement}")
    table.add_row("folder", str(folder) if folder else f"not fetched yet; would be {home() / SMOLLM2.name}")
    table.add_row("size", human_bytes(size) if size is not None else "about 520 MiB once converted")
    results.print(table)
