"""`lavakv report`: files from a run's folder, no model, bad input in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lavakv.cli.main import run
from tests.report.made_up import records, write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", records(2))


def test_it_writes_page_markdown_and_pictures_into_the_run(folder, capsys) -> None:
    assert run(["report", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "The full cache scores" in " ".join(shown.split())
    assert str(folder / "report.html") in shown
    names = {file.name for file in folder.iterdir()}
    assert names == {
        "records.jsonl", "run.json", "report.html", "report.md", "report-curves.svg", "report-needle.svg",
        "report-budgets.svg",
    }  # fmt: skip


def test_json_and_another_folder(folder, tmp_path, capsys) -> None:
    assert run(["report", str(folder), "--out", str(tmp_path / "a" / "b"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["records"] == len(records(2))
    assert told["files"][0] == str(tmp_path / "a" / "b" / "report.html")
    assert all(Path(file).exists() for file in told["files"])
    assert not (folder / "report.html").exists()


def test_without_failures_no_prompt_is_shown(folder, capsys) -> None:
    assert run(["report", str(folder), "--failures", "0"]) == 0
    for name in ("report.html", "report.md"):
        assert "So much for the tale" not in (folder / name).read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["/no/such/folder"], "run: expected a folder with records.jsonl"),
        (["RUN", "--baseline", "h2o"], "--baseline: expected a policy of the run"),
        (["RUN", "--out", "/dev/null/x"], "--out: expected a file that can be written"),
        (["RUN", "--failures", "-1"], "--failures"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, complaint, folder, capsys) -> None:
    assert run(["report", *(str(folder) if argument == "RUN" else argument for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert complaint in " ".join(error.split())
    assert "Traceback" not in error


def test_a_broken_line_is_named(folder, capsys) -> None:
    with (folder / "records.jsonl").open("a") as file:
        file.write("{}\n")
    assert run(["report", str(folder)]) == 2
    assert (
        f"records.jsonl, line {len(records(2)) + 1}: expected a record of schema 1, got schema None"
        in capsys.readouterr().err
    )


def test_no_model_code_is_loaded(folder) -> None:
    code = f"""
import sys
from lavakv.cli.main import run
assert run(["report", {str(folder)!r}]) == 0
assert not {{"transformers", "torch"}} & set(sys.modules), "a report needs no model"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
