"""docs/cli says what each command's `--help` says, and nothing else."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

from lavakv.cli.main import app

ROOT = Path(__file__).parents[2]
COMMANDS = list(typer.main.get_command(app).commands)


@pytest.fixture(scope="module")
def cli_pages() -> ModuleType:
    """The script that writes the pages, as a module."""
    spec = importlib.util.spec_from_file_location("cli_pages", ROOT / "docs" / "tools" / "cli_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_up_to_date(cli_pages: ModuleType) -> None:
    assert cli_pages.stale() == [], "run `make docs-cli`"


def test_a_page_that_is_edited_missing_or_left_over_is_noticed(
    cli_pages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_pages, "FOLDER", tmp_path)
    cli_pages.write()
    assert cli_pages.stale() == []
    (tmp_path / "eval.md").write_text("edited")
    (tmp_path / "bench.md").unlink()
    (tmp_path / "former.md").write_text("of a command that is gone")
    assert cli_pages.stale() == ["bench.md", "eval.md", "former.md"]
    cli_pages.write()
    assert cli_pages.stale() == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_and_the_printed_help_name_the_same_options_in_the_same_words(
    command: str, cli_pages: ModuleType
) -> None:
    page = cli_pages.pages()[f"{command}.md"]
    printed = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "400", "TERM": "dumb", "NO_COLOR": "1"})
    assert printed.exit_code == 0
    flags = r"(?<![\w-])--[a-z][a-z-]*"
    table = page.split("## Examples")[0]
    assert set(re.findall(flags, table)) | {"--help"} == set(re.findall(flags, printed.output.split("Examples:")[0]))
    shown = " ".join(printed.output.replace("│", " ").split())
    for row in re.findall(r"^\| `.*$", page, re.MULTILINE):
        meaning = re.split(r"(?<!\\)\|", row)[2].replace("\\", "").strip()
        meaning = re.sub(r"(^| )At (least|most) \S+$", "", meaning)
        assert meaning
        assert meaning in shown
