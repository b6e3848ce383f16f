"""`lavakv models`, `--version`, and the command as users start it."""

from __future__ import annotations

import json
import subprocess
import sys

from lavakv import __version__
from lavakv.cli.main import run


def test_says_where_the_default_model_would_lie(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("LAVAKV_HOME", str(tmp_path))
    assert run(["models", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["name"] == "smollm2"
    assert about["fetched"] is False
    assert about["folder"] == str(tmp_path / "smollm2")
    assert about["bytes"] is None


def test_tells_the_size_of_a_fetched_model(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("LAVAKV_HOME", str(tmp_path))
    (tmp_path / "smollm2").mkdir()
    (tmp_path / "smollm2" / "config.json").write_text("{}")
    (tmp_path / "smollm2" / "weights").write_bytes(b"x" * 1000)
    assert run(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == 1002
    assert run(["models"]) == 0
    assert "1002 B" in capsys.readouterr().out


def test_version(capsys) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_help_needs_no_torch() -> None:
    code = "import sys; from lavakv.cli.main import run; run(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
