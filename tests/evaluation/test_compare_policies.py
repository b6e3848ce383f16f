"""The script behind `make compare-policies`, with the commands that it would run noted instead."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import lavakv.cli.main
from lavakv.evaluation.policy_costs import PolicyCost, write_costs
from lavakv.tasks import task_names

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "compare_policies.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_policies", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def commands(script, monkeypatch, tmp_path) -> list[list[str]]:
    """The commands of a run in which every policy's cost is known, one policy's that it cannot serve."""
    found: list[list[str]] = []

    def note(command: list[str]) -> int:
        found.append(command)
        if command[0] == "eval":
            folder = Path(command[command.index("--out") + 1])
            folder.mkdir(parents=True)
            (folder / "records.jsonl").touch()
        return 0

    monkeypatch.setattr(lavakv.cli.main, "run", note)
    costs = [PolicyCost("lava", "25%", 9, 1.0, 0.1), PolicyCost("snapkv", "25%", 9, 1.0, None, "it cannot")]
    for model in ("smollm2", "gemma3-270m"):
        (tmp_path / model).mkdir()
        write_costs(tmp_path / model, costs)
    return found


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> int:
    given = [
        "--policies",
        "lava,snapkv",
        "--out",
        str(tmp_path),
        "--page",
        str(tmp_path / "page.md"),
        "--scores",
        str(tmp_path / "scores"),
    ]
    monkeypatch.setattr(sys, "argv", ["compare_policies.py", *given, *arguments])
    code: int = script.main()
    return code


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_each_model_and_part_is_one_evaluation_and_the_page_takes_all(
    script, commands, monkeypatch, tmp_path, capsys
) -> None:
    models = ("--models", "gemma3-270m,smollm2", "--data-dir", str(tmp_path), "--limit", "3")
    assert run(script, monkeypatch, tmp_path, *models) == 0
    *evaluations, report = commands
    outs = [Path(option(command, "--out")).relative_to(tmp_path) for command in evaluations]
    assert outs == [Path(model, part) for model in ("gemma3-270m", "smollm2") for part in script.PARTS]
    for command in evaluations:
        assert option(command, "--policies") == "lava"
        assert (option(command, "--mode"), option(command, "--limit")) == ("both", "3")
        assert option(command, "--dtype") == "bfloat16"
        if "longbench" in option(command, "--out"):
            assert option(command, "--half") == "reporting"
            assert "--seed" not in command
        else:
            assert option(command, "--seed") == "42"
            assert "--half" not in command
    assert report[0] == "report"
    named = [Path(word).relative_to(tmp_path).parent.name for word in report[1 : 1 + len(outs)]]
    assert named == ["gemma3-270m"] * 3 + ["smollm2"] * 3
    assert option(report, "--page") == str(tmp_path / "page.md")
    assert option(report, "--scores") == str(tmp_path / "scores")
    assert "Left out for smollm2: snapkv: it cannot" in capsys.readouterr().err


def test_the_page_can_be_drawn_from_tables_alone(script, commands, monkeypatch, tmp_path) -> None:
    assert run(script, monkeypatch, tmp_path, "--draw") == 0
    (report,) = commands
    assert report[:2] == ["report", "--page"]
    assert "--baseline" not in report


def test_the_baseline_is_the_recommended_policy_where_the_tables_have_it(
    script, commands, monkeypatch, tmp_path
) -> None:
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "m.json").write_text('{"policies": ["reach", "lava"]}')
    assert run(script, monkeypatch, tmp_path, "--draw") == 0
    assert option(commands[0], "--baseline") == "reach"


def test_the_choosing_half_has_other_seeds(script, commands, monkeypatch, tmp_path) -> None:
    arguments = ("--models", "smollm2", "--parts", "ruler", "--half", "choosing", "--no-page")
    assert run(script, monkeypatch, tmp_path, *arguments) == 0
    (command,) = commands
    assert option(command, "--seed") != "42"


def test_a_part_without_its_data_is_left_out_by_name(script, commands, monkeypatch, tmp_path, capsys) -> None:
    assert run(script, monkeypatch, tmp_path, "--models", "smollm2", "--parts", "longbench", "--no-page") == 0
    assert not commands
    assert "Left out: longbench, which needs --data-dir or --hub" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--parts", "rules"), ("--half", "both"), ("--tasks", "ruler_vt")])
def test_bad_arguments_are_refused_before_anything_runs(script, commands, monkeypatch, tmp_path, arguments) -> None:
    with pytest.raises(SystemExit) as caught:
        run(script, monkeypatch, tmp_path, *arguments)
    assert caught.value.code == 2
    assert not commands


def test_its_tasks_exist(script) -> None:
    assert {task for part in script.PARTS.values() for task in part.tasks} <= dict(task_names()).keys()
