"""Writes a page for each `lavakv` command into docs/cli, from the parameters that make its `--help`.

    python docs/tools/cli_pages.py

Reads the command tree, not the printed help, so that neither the terminal's width nor a release of Typer that draws its
boxes differently changes a page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

from lavakv.cli.examples import EXAMPLES
from lavakv.cli.main import app

FOLDER = Path(__file__).parents[1] / "cli"
_MADE = "<!-- Written by `make docs-cli` from the parameters of the command. Do not edit. -->"


def commands() -> dict[str, Any]:
    """The commands by name, without hidden ones."""
    group: Any = typer.main.get_command(app)
    return {name: command for name, command in group.commands.items() if not command.hidden}


def pages() -> dict[str, str]:
    """Text of every page by file name."""
    return {f"{name}.md": _page(name, command) for name, command in commands().items()}


def stale() -> list[str]:
    """File names of pages that are missing, out of date, or of a command that does not exist."""
    made = pages()
    there = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.md")}
    return sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))


def write() -> None:
    """Write all pages and remove those of commands that no longer exist."""
    made = pages()
    FOLDER.mkdir(exist_ok=True)
    for file in FOLDER.glob("*.md"):
        if file.name not in made:
            file.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def _page(name: str, command: Any) -> str:
    shown = [each for each in command.params if not each.hidden]
    arguments = [each for each in shown if each.param_type_name == "argument"]
    options = [each for each in shown if each.param_type_name == "option"]
    usage = " ".join([f"lavakv {name} [OPTIONS]", *map(_usage, arguments)])
    parts = [
        f"# `lavakv {name}`",
        _MADE,
        " ".join(command.help.split()),
        f"```text\n{usage}\n```",
        *_table("Argument", arguments),
        *_table("Option", options),
        "## Examples",
        "```sh\n" + "\n".join(EXAMPLES[name]) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _table(title: str, parameters: Iterable[Any]) -> Iterator[str]:
    rows = [f"| {_names(each)} | {_meaning(each)} | {_default(each)} |" for each in parameters]
    if rows:
        yield "\n".join([f"| {title} | Meaning | Default |", "|---|---|---|", *rows])


def _usage(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return name if argument.required else f"[{name}]"


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    return f"{names} `{parameter.metavar}`" if parameter.metavar else names


def _meaning(parameter: Any) -> str:
    # The bounds of a number belong to the parameter or, in older releases of Typer, to its type.
    at = parameter if hasattr(parameter, "min") else parameter.type
    low, high = getattr(at, "min", None), getattr(at, "max", None)
    bounds = (f" At least {low:g}." if low is not None else "") + (f" At most {high:g}." if high is not None else "")
    text = (parameter.help or "").strip() + bounds
    for sign in ("\\", "|", "*", "<", "[", "`"):
        text = text.replace(sign, f"\\{sign}")
    return text


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if value is None or value is False:
        return ""
    if value is True:
        return f"`{parameter.opts[0]}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


if __name__ == "__main__":
    write()
