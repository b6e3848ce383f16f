"""`lavakv compare` on a tiny model."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

import lavakv
from lavakv.cli.console import results
from lavakv.cli.main import run
from lavakv.cli.variants import fitting
from lavakv.evaluation.variant import Variant
from lavakv.policy.registry import get_policy
from tests.hf.zoo import tiny, tiny_config

POLICIES = "lava,lava-uniform-heads"


def _runs(command: list[str], capsys) -> list[dict]:
    assert run([*command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["runs"]


@pytest.fixture
def command(model_dir, long_prompt) -> list[str]:
    return ["compare", long_prompt, "-m", model_dir, "-n", "4", "--no-chat", "--window", "8", "--positions", "6"]


def test_every_policy_meets_every_budget_after_the_full_cache(command, capsys) -> None:
    runs = _runs([*command, "--policies", POLICIES, "--budgets", "50,60", "--keep", "0.5"], capsys)
    assert [(r["policy"], r["budget"]) for r in runs] == [
        ("full cache", "all"),
        *((policy, size) for policy in POLICIES.split(",") for size in ("50", "60", "50%")),
    ]
    assert [r["kept_entries"] for r in runs] == [6 * n for n in (150, 50, 60, 75, 50, 60, 75)]
    assert all(r["kv_bytes"] < runs[0]["kv_bytes"] for r in runs[1:])
    assert runs[0]["kl_nats"] < 1e-5 < min(r["kl_nats"] for r in runs[1:])
    assert runs[0]["top1_agreement"] == 1
    assert runs[0]["estimated_loss"] == 0 < min(r["estimated_loss"] for r in runs[1:])


def test_answers_are_those_of_generate(command, capsys) -> None:
    records = _runs([*command, "--budgets", "50"], capsys)
    generate = ["generate", *command[1:7], "--window", "8", "--json"]
    for record, options in zip(records, (["--full-cache"], ["--budget", "50"]), strict=True):
        assert run([*generate, *options]) == 0
        alone = json.loads(capsys.readouterr().out)
        assert record["text"] == alone["text"]
        assert record["kept_entries"] == alone["kept_entries"]


def test_questions_are_asked_of_the_context_alone(command, capsys) -> None:
    asked = ["-q", "word7 word8", "-q", "word9"]
    assert run([*command, "--budgets", "50", *asked, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["mode"] == "query-agnostic"
    assert shown["questions"] == ["word7 word8", "word9"]
    assert [(r["policy"], r["question"]) for r in shown["runs"]] == [
        ("full cache", 0), ("full cache", 1), ("lava", 0), ("lava", 1),
    ]  # fmt: skip
    assert all(r["kept_entries"] == 6 * 50 for r in shown["runs"][2:])


@pytest.mark.parametrize("width", [80, 180])
def test_table_and_answers_at_any_width(width, command, capsys, monkeypatch) -> None:
    monkeypatch.setattr(results, "_width", width)
    answers = [record["text"] for record in _runs([*command, "--keep", "0.25"], capsys)]
    assert run([*command, "--keep", "0.25"]) == 0
    shown = capsys.readouterr().out
    for text in ("150 prompt tokens, query-aware", "25%", "KiB", "tok/s", *answers):
        assert text in shown


def test_fractions_are_the_default_and_text_can_be_left_out(command, capsys) -> None:
    runs = _runs([*command, "--no-text"], capsys)
    assert [r["budget"] for r in runs] == ["all", "50%", "25%", "12.5%"]
    assert {r["text"] for r in runs} == {None}


def test_all_is_every_policy(command, capsys) -> None:
    """But for those that read the prompt twice, of which half fills the model's positions."""
    assert run([*command, "--policies", "all", "--budgets", "50", "--no-text", "--json"]) == 0
    printed = capsys.readouterr()
    replayed = [name for name in lavakv.policies() if "replay" in get_policy(name).needs]
    runs = json.loads(printed.out)["runs"]
    assert [r["policy"] for r in runs[1:]] == [name for name in lavakv.policies() if name not in replayed]
    for name in replayed:
        assert f"Left out: replay of policy '{name}': expected at most 256 tokens" in printed.err


def test_a_replay_that_does_not_fit_is_named_before_the_prompt_is_read(command, capsys, monkeypatch) -> None:
    monkeypatch.setattr("lavakv.evaluation.runner.record", None)
    assert run([*command, "--policies", "lava,kvzip", "--budgets", "50"]) == 2
    assert "replay of policy 'kvzip': expected at most 256 tokens" in capsys.readouterr().err


def test_csv_and_plot(command, capsys, tmp_path: Path) -> None:
    table, picture = tmp_path / "rows.csv", tmp_path / "kl.svg"
    runs = _runs([*command, "--policies", POLICIES, "--csv", str(table), "--plot", str(picture)], capsys)
    with table.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [float(row["kl_nats"]) for row in rows] == [r["kl_nats"] for r in runs]
    assert "<svg" in picture.read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--csv", "/no/such/folder/x.csv"], "--csv: expected a file that can be written"),
        (["--plot", "/no/such/folder/x.png"], "--plot: expected a file that can be written"),
        (["--plot", "x.doc"], "--plot: expected a .png"),
        (["-q", " "], "--question: expected some text"),
    ],
)
def test_files_and_questions_that_are_none(arguments, complaint, command, capsys) -> None:
    assert run([*command, "--no-text", "--budgets", "50", *arguments]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(("option", "name"), [("--csv", "x.csv"), ("--plot", "x.png"), ("--plot", "x.doc")])
def test_files_are_tried_before_the_work(option, name, command, capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("lavakv.cli.compare.load_for", lambda *_: pytest.fail("a model was loaded"))
    assert run([*command, option, str(tmp_path / "none" / name)]) == 2
    assert f"{option}: expected a" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["png", "pdf"])
def test_a_missing_converter_is_found_before_the_work(ending, command, capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    monkeypatch.setattr("lavakv.cli.compare.load_for", lambda *_: pytest.fail("a model was loaded"))
    assert run([*command, "--plot", str(tmp_path / f"x.{ending}")]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "--plot: expected vl-convert-python for PNG and PDF, got none" in shown
    assert "pip install 'lavakv[plot]'" in shown


def test_two_files_of_one_name_are_refused(command, capsys, tmp_path: Path) -> None:
    file = str(tmp_path / "x.svg")
    assert run([*command, "--no-text", "--csv", file, "--plot", f"{tmp_path}/./x.svg"]) == 2
    assert "--plot: expected another file than --csv" in capsys.readouterr().err


def test_a_disk_that_fills_up_costs_the_file_and_not_the_table(command, capsys, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert run([*command, "--no-text", "--budgets", "50", "--csv", str(tmp_path / "x.csv")]) == 1
    shown = capsys.readouterr()
    assert "KiB" in shown.out
    assert "No space left on device" in shown.err
    assert not list(tmp_path.iterdir())


def test_a_reader_who_leaves_costs_the_table_and_not_the_files(command, tmp_path: Path, monkeypatch) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("lavakv.cli.compare.print_comparison", closed)
    monkeypatch.setattr("lavakv.cli.guard.os.dup2", lambda *_: None)  # this process goes on
    table, picture = tmp_path / "x.csv", tmp_path / "x.svg"
    assert run([*command, "--no-text", "--budgets", "50", "--csv", str(table), "--plot", str(picture)]) == 1
    assert "kl_nats" in table.read_text()
    assert "<svg" in picture.read_text()


def test_budgets_that_hold_the_same_are_marked_and_said(command, capsys, tmp_path: Path) -> None:
    budgets = ["--no-text", "--window", "32", "--keep", "50%,5%,3%"]
    note = "5% and 3% both hold window + 1 = 33 entries a head (22.0% of the prompt), the minimum"
    assert run([*command, *budgets, "--csv", str(tmp_path / "x.csv")]) == 0
    shown = capsys.readouterr().out
    assert f"* {note}" in " ".join(shown.split())
    marked = [line.split()[1] for line in shown.splitlines() if line.startswith("lava") and " *" in line]
    assert marked == ["5%", "3%"]
    with (tmp_path / "x.csv").open(newline="") as lines:
        assert [row["same_entries_as"] for row in csv.DictReader(lines)] == ["", "", "3%", "5%"]
    assert run([*command, *budgets, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["notes"] == [note]
    assert [each["same_entries_as"] for each in found["runs"]] == [[], [], ["3%"], ["5%"]]
    assert [each["at_minimum"] for each in found["runs"]] == [False, False, True, True]
    assert found["runs"][2]["kept_entries"] == found["runs"][3]["kept_entries"] == 33 * 2 * 3


def test_all_leaves_out_what_cannot_serve_the_model_and_names_it(command, model_dir, tmp_path: Path, capsys) -> None:
    unsuited = tmp_path / "dynamic"
    shutil.copytree(model_dir, unsuited)
    config = json.loads((unsuited / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    (unsuited / "config.json").write_text(json.dumps(config))
    command = [*command[:3], str(unsuited), *command[4:], "--budgets", "50", "--no-text", "--json", "--policies"]
    assert run([*command, "all"]) == 0
    told = capsys.readouterr()
    left_out = ["reach", "reach-question", "expected-attention", "compactor"]
    found = [each["policy"] for each in json.loads(told.out)["runs"][1:]]
    assert found == [name for name in lavakv.policies() if name not in left_out]
    assert [line.split("'")[1] for line in told.err.splitlines()] == left_out
    assert all(line.startswith("Left out: policy") for line in told.err.splitlines())
    assert run([*command, "compactor"]) == 2
    assert "policy 'compactor' on model 'llama': expected a rotary" in capsys.readouterr().err


def test_layers_that_no_prompt_can_be_repeated_behind_are_told_beforehand(capsys) -> None:
    config, variants = tiny_config("qwen3_next"), [Variant("kvzip", budget=50), Variant("lava", budget=50)]
    assert fitting(variants, 80, "all", config) == variants[1:]
    assert "Left out: policy 'kvzip': expected full attention or sliding windows" in capsys.readouterr().err
    with pytest.raises(lavakv.UnsupportedError):
        fitting(variants, 80, "kvzip,lava", config)


def test_all_leaves_out_what_only_a_layer_refuses(command, model_dir, tmp_path: Path, capsys) -> None:
    """A configuration says nothing of softcaps that a policy's formula lacks, or of pairs that are interleaved."""
    unsuited = tmp_path / "gemma2"
    shutil.copytree(model_dir, unsuited)
    (unsuited / "model.safetensors").unlink()
    (unsuited / "config.json").unlink()
    tiny("gemma2").save_pretrained(unsuited)
    command = [*command[:3], str(unsuited), *command[4:], "--budgets", "50", "--no-text", "--json", "--policies"]
    assert run([*command, "all"]) == 0
    told = capsys.readouterr()
    left_out = ["expected-attention", "compactor"]
    found = [each["policy"] for each in json.loads(told.out)["runs"][1:]]
    assert found == [name for name in lavakv.policies() if name not in left_out]
    assert [line.split("'")[1] for line in told.err.splitlines() if "Left out" in line] == left_out
    assert run([*command, "compactor"]) == 2
    assert "policy 'compactor' at layer 1: expected attention without logit softcap" in capsys.readouterr().err


def test_bytes_and_tolerated_losses_are_budgets_as_well(command, capsys) -> None:
    runs = _runs([*command, "--policies", "lava", "--max-bytes", "20KiB,24000", "--max-loss", "40%,0.1"], capsys)
    assert [r["budget"] for r in runs] == ["all", "20480", "24000", "loss 0.4", "loss 0.1"]
    assert all(r["kv_bytes"] <= size for r, size in zip(runs[1:], (20480, 24000), strict=False))
    whole, strict, loose = runs[0]["kept_entries"], runs[4]["kept_entries"], runs[3]["kept_entries"]
    assert loose < strict < whole
    assert runs[3]["estimated_loss"] > runs[4]["estimated_loss"] > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--max-bytes", "much"], "max_bytes: expected a positive number of bytes"),
        (["--max-bytes", "20KiB,20480"], "max_bytes: expected each one once"),
        (["--max-loss", "100%"], "--max-loss: expected the largest estimated loss"),
        (["--max-loss", "10%,"], "--max-loss: expected the largest estimated loss"),
        (["--max-loss", "10%", "--policies", "layer-defensivekv"], "scores do not depend on the budget"),
    ],
)
def test_bad_bytes_and_losses_are_one_line(given, said, command, capsys) -> None:
    assert run([*command, *given]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
