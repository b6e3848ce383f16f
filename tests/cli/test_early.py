"""Bad input of every kind is answered in one line and exit code 2 before PyTorch or transformers are imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.bad_input import COMMAND, KINDS, Kind, arguments_of, complaint, make_files

ROOT = Path(__file__).parents[2]
DRIVER = """
import contextlib, io, json, sys
from lavakv.cli.main import run

for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    heavy = sorted({"torch", "transformers"} & set(sys.modules))
    print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue(), "heavy": heavy}), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bad input")
    make_files(made)
    return made


def _answers(lines: list[list[str]]) -> list[dict[str, Any]]:
    """What the command says to each line, one after the other in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], input=json.dumps(lines), capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, dict[str, Any]]:
    return dict(zip(KINDS, _answers([arguments_of(kind, folder) for kind in KINDS.values()]), strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_one_line_and_exit_code_2_before_torch(name, answers) -> None:
    answer = answers[name]
    assert complaint(KINDS[name], answer["code"], answer["out"], answer["err"]) is None
    assert answer["heavy"] == []
    assert ".." not in answer["err"].replace("...", "")


def test_the_test_itself_sees_what_comes_late(folder) -> None:
    """A model whose small files are good and whose weights are none is found by loading it, which takes PyTorch."""
    (answer,) = _answers([["generate", "hi", "-m", str(folder / "model")]])
    assert answer["code"] == 2
    assert answer["heavy"] == ["torch", "transformers"]


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ((2, "", "lavakv: --keep: expected x\n"), None),
        ((1, "", "lavakv: --keep: expected x\n"), "exit code 1"),
        ((2, "", "lavakv: --keep: expected x\nand more\n"), "not one line"),
        ((2, "text", "lavakv: --keep: expected x\n"), "not one line"),
        ((2, "", "lavakv: budget: expected x\n"), "'--keep' is not named"),
    ],
)
def test_what_is_wrong_with_an_answer(answer, fault) -> None:
    found = complaint(Kind((), "--keep"), *answer)
    assert found is None if fault is None else found.startswith(fault)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], [], ["eval", "--list-tasks"], ["models"]])
def test_what_needs_no_model_needs_no_torch(arguments) -> None:
    (answer,) = _answers([arguments])
    assert (answer["code"], answer["err"], answer["heavy"]) == (0, "", [])
    assert answer["out"]


def test_the_command_itself_returns_the_exit_code() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "generate", "hi", "--keep", "0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("lavakv: --keep: expected a kept fraction")


def test_the_benchmark_ends_in_one_line_of_json() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "bad_input.py"), "--rounds", "0", "--only", "two budgets"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, "no round gives no median"
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "bad_input.py"), "--rounds", "1", "--only", "two budgets"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["kinds"] == 1
    assert last["wrong"] == {}
    assert last["median_seconds"].keys() == {"two budgets"}
