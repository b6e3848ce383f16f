"""`lavakv eval` on a tiny model and made-up records."""

from __future__ import annotations

import json
import re
import resource
import shutil
from pathlib import Path

import pytest

import lavakv
from lavakv.cli.console import notes, results
from lavakv.cli.main import run
from lavakv.evaluation.presets import PRESETS
from lavakv.evaluation.records import read_records
from lavakv.evaluation.settings import EvalSettings
from lavakv.tasks import get_task
from tests.cli.conftest import WORDS
from tests.hf.zoo import tiny

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")


def _line(index: int, **changes: object) -> str:
    context = " ".join(WORDS[(index + 3) * each % 80] for each in range(90))
    record = {
        "input": "", "context": context, "answers": [f"word{index}"], "length": 90, "dataset": "lcc",
        "language": "python", "all_classes": None, "_id": f"made-up-{index}",
    }  # fmt: skip
    return json.dumps(record | changes) + "\n"


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "longbench").mkdir()
    (folder / "longbench" / "lcc.jsonl").write_text("".join(_line(index) for index in range(3)))
    return folder


@pytest.fixture
def command(model_dir, data_dir, tmp_path) -> list[str]:
    options = {
        "-m": model_dir, "--tasks": "longbench_lcc", "--policies": "lava,snapkv", "--budgets": "40,50",
        "--data-dir": str(data_dir), "--out": str(tmp_path / "run"), "--limit": "1",
    }  # fmt: skip
    return ["eval", *(part for option in options.items() for part in option)]


def _with(command: list[str], **changes: str) -> list[str]:
    """The command with other values of some options."""
    command = list(command)
    for name, value in changes.items():
        option = f"--{name.replace('_', '-')}" if len(name) > 1 else f"-{name}"
        command[command.index(option) + 1] = value
    return command


def test_json_tells_scores_and_costs(command, tmp_path, capsys) -> None:
    assert run([*command, "--json"]) == 0
    captured = capsys.readouterr()
    told, records = json.loads(captured.out), read_records(tmp_path / "run")
    assert captured.err == ""
    assert told["records"] == len(records) == 5
    assert told["out"] == str(tmp_path / "run")
    cell = next(cell for cell in told["scores"] if (cell["policy"], cell["budget"]) == ("snapkv", "50"))
    scores = [record["score"] for record in records if (record["policy"], record["budget"]) == ("snapkv", "50")]
    assert (cell["row"], cell["prompts"], cell["score"]) == ("longbench_lcc", 1, round(100 * sum(scores), 2))
    cost, added = told["cost"], [record for record in records if record["budget"] != "all"]
    decode = sum(record["seconds"]["decode"] for record in added)
    everything = decode + sum(record["seconds"]["fill"] + record["seconds"]["score"] for record in added)
    assert cost["ratio"] == pytest.approx(everything / decode)
    assert cost["prefill_seconds"] == pytest.approx(sum({r["seconds"]["prefill"] for r in records}))
    assert cost["within_goal"] == sum(pair["ratio"] <= 1.1 for pair in cost["pairs"] if pair["budget"] != "all")
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == {
        name: value for name, value in told.items() if name not in ("out", "earlier")
    }
    assert told["earlier"] is None
    assert records[0]["run"]["passed"] == ["budgets", "data_dir", "limit", "model", "policies", "tasks"]


def test_a_rerun_goes_on_and_a_finished_one_computes_nothing(command, tmp_path, capsys, monkeypatch) -> None:
    assert run(command) == 0
    assert "Scores (0 to 100)" in capsys.readouterr().out
    file = tmp_path / "run" / "records.jsonl"
    whole = file.read_bytes()
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    assert run(command) == 0
    assert "3 of 5 records are finished already" in capsys.readouterr().err
    assert file.read_bytes().startswith(b"".join(whole.splitlines(keepends=True)[:3]))
    again = file.read_bytes()
    monkeypatch.setattr("lavakv.evaluation.executor.examine", None)
    assert run(command) == 0
    assert file.read_bytes() == again


def test_other_settings_start_a_new_run_and_the_old_one_is_archived(command, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    assert run(command) == 0
    whole = (out / "records.jsonl").read_bytes()
    (out / "report.html").write_text("a page")
    (out / "reports of mine").mkdir()
    capsys.readouterr()
    assert run([*_with(command, budgets="45"), "--json"]) == 0
    captured = capsys.readouterr()
    changed = "Settings changed (budgets was 40,50, is 45)."
    said = f"{changed} Starting a new run in {out}; previous results moved to {out}/earlier/1\n"
    assert captured.err == said
    moved = {"folder": f"{out}/earlier/1", "changed": ["budgets was 40,50, is 45"]}
    assert json.loads(captured.out)["earlier"] == moved
    assert {record["budget"] for record in read_records(out)} == {"all", "45"}
    assert (out / "earlier" / "1" / "records.jsonl").read_bytes() == whole
    kept = sorted(file.name for file in (out / "earlier" / "1").iterdir())
    assert kept == ["records.jsonl", "report.html", "run.json", "summary.json"]
    assert (out / "reports of mine").is_dir()
    assert run(command) == 0
    assert json.loads((out / "earlier" / "2" / "run.json").read_text())["budgets"] == ["all", "45"]


def test_a_mistake_moves_nothing(command, tmp_path, capsys) -> None:
    """Other settings that cannot be, with and without `--restart`."""
    assert run(command) == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    for mistake in (_with(command, budgets="20"), _with(command, data_dir=str(tmp_path)), _with(command, m="/none")):
        assert run(mistake) == run([*mistake, "--restart"]) == 2
        assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before


def test_restart_archives_what_another_version_wrote(command, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    assert run(command) == 0
    for text in (json.dumps({"schema": 0}), "{"):
        (out / "run.json").write_text(text)
        assert run(command) == 2
        assert "or --restart to archive it" in capsys.readouterr().err
        assert run([*command, "--restart"]) == 0
        assert "earlier/" in capsys.readouterr().err
        assert len(read_records(out)) == 5
    assert (out / "earlier" / "2" / "run.json").read_text() == "{"


def test_anew_still_works_and_says_what_it_is_called_now(command, tmp_path, capsys) -> None:
    assert run(command) == run([*command, "--anew"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("lavakv: --anew is deprecated, use --restart\n") == 1
    assert (tmp_path / "run" / "earlier" / "1" / "records.jsonl").is_file()
    assert run(["eval", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--restart" in shown
    assert "--anew" not in shown


def test_an_interruption_says_what_is_kept(command, tmp_path, capsys, monkeypatch) -> None:
    from lavakv.evaluation import run as module

    new_record, calls = module.new_record, []

    def interrupted(*arguments: object) -> dict:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return new_record(*arguments)

    monkeypatch.setattr(module, "new_record", interrupted)
    assert run(command) == 130
    said = " ".join(capsys.readouterr().err.split())
    assert "Stopped. 3 of 5 records are in" in said
    assert "Traceback" not in said
    assert len(read_records(tmp_path / "run")) == 3
    calls.clear()
    assert run([*command, "--restart"]) == 130
    said = " ".join(capsys.readouterr().err.split())
    assert "rerun the same command, without --restart, to resume" in said


def test_rescoring_needs_no_model(command, tmp_path, model_dir, capsys) -> None:
    assert run(command) == 0
    file = tmp_path / "run" / "records.jsonl"
    whole, records = file.read_bytes(), read_records(tmp_path / "run")
    records[1]["score"], records[4]["task_version"] = 0.125, "old"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    capsys.readouterr()
    assert run(["eval", "--rescore", "--out", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed"] == 1
    assert file.read_bytes() == whole
    (tmp_path / "empty").mkdir()
    assert run(["eval", "--rescore", "--out", str(tmp_path / "empty")]) == 2
    assert "expected records in records.jsonl, got none" in capsys.readouterr().err
    assert run(["eval", "--rescore", "--out", str(tmp_path / "nothing")]) == 2
    assert "--out: expected a folder of results" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()


def test_a_table_for_people_at_80_columns(command, capsys, monkeypatch) -> None:
    monkeypatch.setattr(results, "_width", 80)
    assert run(_with(command, policies="lava,lava-uniform-layers,lava-uniform-heads")) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in (
        "Gain of each kind of budget",
        "generation *",
        "once for each of the prompts: 1.",
        "within the goal of 1.1",
    ):
        assert part in shown


def test_progress_with_time_left_on_a_terminal_only(command, tmp_path, capsys, monkeypatch) -> None:
    assert run(command) == 0
    assert "left" not in capsys.readouterr().err
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(notes, "_force_terminal", True)
    monkeypatch.setattr(notes, "is_interactive", True)
    assert run(_with(command, out=str(tmp_path / "other"))) == 0
    assert re.search(r"\d:\d\d:\d\d left", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"tasks": "longbench_lc"},
            "task: expected a known task that generates text, got 'longbench_lc'. Did you mean",
        ),
        ({"tasks": "long*x"}, "--tasks: expected a pattern of known tasks, got long*x"),
        ({"policies": "lava,what"}, "--policies: expected one of lava"),
        ({"budgets": "20,x"}, "--budgets: expected whole numbers"),
        ({"budgets": "20"}, "budget: expected more than the window of 32 tokens"),
        ({"data_dir": "/no/such"}, "--data-dir: expected a folder, got /no/such"),
        ({"out": "/proc/1/nothing"}, "expected a file that can be written"),
        ({"limit": "0"}, "--limit"),
    ],
)
def test_bad_options(changes, complaint, command, capsys) -> None:
    assert run(_with(command, **changes)) == 2
    captured = capsys.readouterr()
    assert complaint in " ".join(captured.err.replace("│", " ").split())
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_what_must_be_given(model_dir, capsys) -> None:
    for arguments, complaint in (
        (["--tasks", "longbench_lcc"], "--out: expected a folder for the results"),
        (["--out", "x"], "--tasks: expected at least one"),
        (["--out", "x", "--preset", "mine"], "--preset: expected one of ablation, paper-longbench"),
    ):
        assert run(["eval", "-m", model_dir, *arguments]) == 2
        assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("{]\n", "line 2"), (_line(1, answers=[]), "line 2"), (_line(1, context=7), "line 2")],
)
def test_a_broken_data_line_is_named_and_skipped_on_request(
    line, complaint, command, data_dir, tmp_path, capsys
) -> None:
    data = Path(shutil.copytree(data_dir, tmp_path / "data"))
    (data / "longbench" / "lcc.jsonl").write_text(_line(0) + line + _line(2))
    broken = _with(command, data_dir=str(data), limit="3")
    assert run(broken) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "lcc.jsonl" in said
    assert complaint in said
    assert not (tmp_path / "run" / "records.jsonl").exists()
    assert run([*broken, "--skip-broken"]) == 0
    assert {record["example"] for record in read_records(tmp_path / "run")} == {"made-up-0", "made-up-2"}


def test_a_disk_that_fills_is_a_failed_run(command, tmp_path, capsys) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size, complaint in ((100, "run.json"), (4000, "records.jsonl")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            assert run(command) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        said = " ".join(capsys.readouterr().err.split())
        assert f"{complaint}: expected a file that can be written, got File too large" in said
    assert run(command) == 0
    assert len(read_records(tmp_path / "run")) == 5


def test_questions_whose_files_are_not_there_are_left_out(command, tmp_path, capsys) -> None:
    both = _with(command, tasks="longbench_lcc,ruler_qa_squad")
    assert run([*both, "--json", "--lengths", "700"]) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert list(told["skipped"]) == ["ruler_qa_squad"]
    said = " ".join(captured.err.split())
    assert said.startswith("Left out: ")
    assert "squad.json: expected squad's development set, got no file" in said
    assert {record["task"] for record in read_records(tmp_path / "run")} == {"longbench_lcc"}
    assert run(_with(command, tasks="ruler_qa_squad", out=str(tmp_path / "other"))) == 2
    assert "squad.json" in capsys.readouterr().err


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_are_settings_of_tasks_that_are_there(preset) -> None:
    settings = EvalSettings(**({"model": "smollm2"} | PRESETS[preset].settings))
    assert [get_task(name).name for name in settings.tasks] == list(settings.tasks)
    assert len(settings.variants()) == 1 + len(settings.policies) * len(settings.budgets)


def test_options_override_a_preset(model_dir, data_dir, tmp_path, capsys) -> None:
    command = ["eval", "-m", model_dir, "--preset", "ablation", "--tasks", "longbench_lcc", "--keep", "0.5"]
    assert run([*command, "--data-dir", str(data_dir), "--out", str(tmp_path), "--limit", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {(gain["without"], gain["budget"], gain["prompts"]) for gain in told["ablation"]} == {
        ("layer budgets", "50%", 2), ("head budgets", "50%", 2),
    }  # fmt: skip


def test_all_tasks_are_listed(capsys) -> None:
    assert run(["eval", "--list-tasks", "--json"]) == 0
    assert {"longbench_lcc", "needle"} <= json.loads(capsys.readouterr().out).keys()
    assert run(["eval", "--list-tasks"]) == 0
    assert "longbench_lcc" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["both", "query-agnostic,query-aware"])
def test_both_modes_at_once(command, mode, tmp_path, capsys) -> None:
    both = [*command, "--mode", mode, "--kl", "2", "--max-new-tokens", "3", "--json"]
    assert run(both) == 0
    told, records = json.loads(capsys.readouterr().out), read_records(tmp_path / "run")
    assert told["records"] == len(records) == 10
    assert {cell["row"] for cell in told["scores"]} == {
        "longbench_lcc, query-aware", "longbench_lcc, query-agnostic",
    }  # fmt: skip
    assert all(record["kl_nats"] >= 0 and record["new_tokens"] <= 3 for record in records)
    assert records[0]["run"]["arguments"]["mode"] == "both"


def test_all_leaves_out_what_cannot_serve_the_model_or_its_prompts(command, model_dir, tmp_path, capsys) -> None:
    unsuited = tmp_path / "gemma2"
    shutil.copytree(model_dir, unsuited)
    (unsuited / "model.safetensors").unlink()
    tiny("gemma2", max_position_embeddings=300).save_pretrained(unsuited)
    (tmp_path / "longbench").mkdir()
    (tmp_path / "longbench" / "lcc.jsonl").write_text(_line(0, context=" ".join(WORDS * 3)))  # 200 tokens stay of it
    options = {"m": str(unsuited), "budgets": "50", "data_dir": str(tmp_path)}
    command = [*_with(command, policies="all", **options), "--max-new-tokens", "2", "--json"]
    assert run(command) == 0
    left_out = ["expected-attention", "compactor", "kvzip", "kvzip+"]
    told = capsys.readouterr()
    assert [line.split("'")[1] for line in told.err.splitlines() if "Left out" in line] == left_out
    kept = [name for name in lavakv.policies() if name not in left_out]
    assert [record["policy"] for record in read_records(tmp_path / "run")] == ["full cache", *kept]
    assert run(command) == 0
    assert json.loads(capsys.readouterr().out)["earlier"] is None
    before = read_records(tmp_path / "run")
    for name, complaint in (("kvzip", "replay of policy 'kvzip'"), ("compactor", "policy 'compactor' at layer 1")):
        assert run([*_with(command, policies=name, **options), "--restart"]) == 2
        assert complaint in capsys.readouterr().err
        if name == "kvzip":  # before anything runs: the earlier run is where it was
            assert read_records(tmp_path / "run") == before
