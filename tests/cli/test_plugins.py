"""Installed packages that bring policies, as the command line sees them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import lavakv
from lavakv.cli.main import run

MODULE = """
import torch
import lavakv

def latest(window):
    positions = torch.arange(window.num_evictable, dtype=torch.float32, device=window.queries.device)
    return positions.expand(window.queries.shape[0], -1)

LATEST = lavakv.Policy("latest", "keep the latest", latest, head_rule="equal", layer_rule="equal")
"""


def install(folder: Path, distribution: str, module: str, source: str, policies: dict[str, str]) -> None:
    """What pip leaves behind: a module, and metadata with entry points."""
    (folder / f"{module}.py").write_text(source)
    about = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    points = [f"{name} = {module}:{target}" for name, target in policies.items()]
    (about / "entry_points.txt").write_text("\n".join(["[lavakv.policies]", *points, ""]))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that Python looks into; its modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("lavakv_latest_plugin", "lavakv_broken_plugin"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    install(tmp_path, "latest-plugin", "lavakv_latest_plugin", MODULE, {"latest": "LATEST"})
    return tmp_path


@pytest.fixture
def command(model_dir: str, long_prompt: str) -> list[str]:
    short = " ".join(long_prompt.split()[:100])  # can be read twice within the model's positions
    return ["compare", short, "-m", model_dir, "--no-text", "--window", "8", "--budgets", "50", "--json"]


def _compared(command: list[str], policies: str, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    assert run([*command, "--policies", policies]) == 0
    captured = capsys.readouterr()
    return [each["policy"] for each in json.loads(captured.out)["runs"]], captured.err


def test_a_plugin_is_listed_and_can_be_asked_for(folder, command, capsys) -> None:
    assert lavakv.policies()["latest"] == "from latest-plugin"
    assert _compared(command, "latest,lava", capsys) == (["full cache", "latest", "lava"], "")
    found, said = _compared(command, "all", capsys)
    assert found[-1] == "latest"
    assert said == ""


def test_a_broken_plugin_is_left_out_of_all_and_named(folder, command, capsys) -> None:
    source = "raise RuntimeError('not\\ntoday')\n"
    install(folder, "broken-plugin", "lavakv_broken_plugin", source, {"broken": "BROKEN"})
    found, said = _compared(command, "all", capsys)
    assert found == ["full cache", *(name for name in lavakv.policies() if name != "broken")]
    assert said.count("\n") == 1
    assert said.startswith("Left out: policy 'broken': expected a lavakv.Policy at lavakv_broken_plugin:BROKEN")
    assert run([*command, "--policies", "broken"]) == 2
    assert "policy 'broken': expected" in capsys.readouterr().err
