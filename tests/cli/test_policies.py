"""`lavakv policies`."""

from __future__ import annotations

import json

import pytest

import lavakv
from lavakv import PolicyError
from lavakv.cli import policies as command
from lavakv.cli.console import results
from lavakv.cli.main import run
from lavakv.policy.registry import get_policy


def test_all_are_listed_with_what_they_say(capsys) -> None:
    assert run(["policies", "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["policies"]}
    assert {name: one["summary"] for name, one in found.items()} == dict(lavakv.policies())
    for name, one in found.items():
        policy = get_policy(name)
        assert one["needs"] == list(policy.needs)
        for field in ("scored_by", "sees_question", "relative_cost", "trained"):
            assert one[field] == getattr(policy, field)
    assert found["kvzip+"]["needs"] == ["replay", "output_weight", "residual_norms"]
    assert found["kvzip+"]["sees_question"] is False


def test_a_table_at_any_width(capsys, monkeypatch) -> None:
    for width in (80, 220):
        monkeypatch.setattr(results, "_width", width)
        assert run(["policies"]) == 0
        shown = capsys.readouterr().out
        assert "kvzip+" in shown
        assert "arXiv" in shown
    row = next(line for line in shown.splitlines() if "residual-far" in line)
    assert [cell.strip() for cell in row.split("│")[1:4]] == [
        "residual-far", "weights, residual norms, all queries", "all queries",
    ]  # fmt: skip


def test_a_plugin_that_cannot_be_loaded_is_listed(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise PolicyError("policy 'lava'", expected="a lavakv.Policy", got="nothing", fix="Uninstall it.")

    monkeypatch.setattr("lavakv.policy.registry.get_policy", fail)
    record = command._record("lava", "a line")
    assert record["summary"].startswith("cannot be loaded: policy 'lava'")
    assert record["needs"] is record["trained"] is None
