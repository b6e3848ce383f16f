"""`lavakv compare` on a tiny model."""

from __future__ import annotations

import json

import pytest

from lavakv.cli.console import results
from lavakv.cli.main import run


def test_every_policy_meets_every_budget_after_the_full_cache(model_dir, long_prompt, capsys) -> None:
    policies, command = "lava,lava-uniform-heads", ["compare", long_prompt, "-m", model_dir, "-n", "4", "--no-chat"]
    assert run([*command, "--policies", policies, "--budgets", "50,60", "--keep", "0.5", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [(r["policy"], r["budget"]) for r in runs] == [
        ("full cache", "all"),
        *((policy, size) for policy in policies.split(",") for size in ("50", "60", "50%")),
    ]
    assert [r["kept_entries"] for r in runs] == [6 * n for n in (150, 50, 60, 75, 50, 60, 75)]
    assert all(r["kv_bytes"] < runs[0]["kv_bytes"] for r in runs[1:])


@pytest.mark.parametrize("width", [80, 160])
def test_table_and_answers_at_any_width(width, model_dir, long_prompt, capsys, monkeypatch) -> None:
    monkeypatch.setattr(results, "_width", width)
    command = ["compare", long_prompt, "-m", model_dir, "-n", "4", "--no-chat", "--keep", "0.25"]
    assert run(command) == 0
    shown = capsys.readouterr().out
    assert run([*command, "--json"]) == 0
    answers = [record["text"] for record in json.loads(capsys.readouterr().out)["runs"]]
    for text in ("150 prompt tokens", "full cache", "25%", "KiB", "tok/s", *answers):
        assert text in shown


def test_fractions_are_the_default(model_dir, long_prompt, capsys) -> None:
    assert run(["compare", long_prompt, "-m", model_dir, "-n", "1", "--window", "8", "--json"]) == 0
    assert [r["budget"] for r in json.loads(capsys.readouterr().out)["runs"]] == ["all", "50%", "25%", "12.5%"]
