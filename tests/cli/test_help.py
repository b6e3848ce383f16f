"""Help fits a terminal of 80 columns, cuts nothing off, and its examples are commands that can be given."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest
import typer

from lavakv.bench.shapes import SHAPES
from lavakv.budgets.spec import parse_bytes
from lavakv.cli.eval_settings import expanded
from lavakv.cli.examples import EXAMPLES
from lavakv.cli.lists import fractions, whole_numbers
from lavakv.cli.main import app
from lavakv.cli.variants import parse_policies
from lavakv.evaluation.presets import get_preset
from lavakv.models.source import source_of
from lavakv.policy.names import require_policy_name
from lavakv.tasks import get_task

GROUP = typer.main.get_command(app)
COMMANDS = ["lavakv", *GROUP.commands]
HELP = """
import sys
from lavakv.cli.main import run
for name in sys.argv[1:]:
    run([name, "--help"] if name != "lavakv" else ["--help"])
    print("\\f")
"""


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """The help of each command as a terminal of 80 columns shows it."""
    environment = {**os.environ, "COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", HELP, *COMMANDS], env=environment, capture_output=True, text=True, check=True
    )
    shown = done.stdout.split("\f\n")[:-1]
    return dict(zip(COMMANDS, shown, strict=True))


@pytest.mark.parametrize("command", COMMANDS)
def test_it_fits_80_columns_and_cuts_nothing_off(command, pages) -> None:
    assert max(map(len, pages[command].splitlines())) <= 80
    assert "\u2026" not in pages[command]


@pytest.mark.parametrize("command", COMMANDS)
def test_its_examples_stand_there_as_they_are(command, pages) -> None:
    shown = [line.strip() for line in pages[command].splitlines()]
    assert "Examples:" in shown
    assert EXAMPLES[command]
    for example in EXAMPLES[command]:
        assert example in shown
        assert command == "lavakv" or example.split()[1] == command


@pytest.mark.parametrize("example", sorted({example for lines in EXAMPLES.values() for example in lines}))
def test_examples_are_understood(example) -> None:
    """By the parser, and their values by what checks them; only files and models need not be there."""
    program, name, *arguments = shlex.split(example.split(" > ")[0])
    assert program == "lavakv"
    given = GROUP.commands[name].make_context(name, arguments).params
    for option, check in CHECKS.items():
        if given.get(option) is not None:
            assert check(given[option])


CHECKS = {
    "budgets": lambda value: whole_numbers("--budgets", value),
    "keep": lambda value: fractions("--keep", value),
    "max_bytes": parse_bytes,
    "model": lambda value: source_of(value).kind in ("default", "hub"),
    "policies": parse_policies,
    "policy": require_policy_name,
    "preset": get_preset,
    "shape": lambda value: value in SHAPES,
    "tasks": lambda value: expanded(tuple(value.split(","))) and [get_task(name) for name in value.split(",")],
}


def test_every_command_has_examples() -> None:
    assert list(EXAMPLES) == ["lavakv", *GROUP.commands]
