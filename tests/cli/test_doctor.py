"""`lavakv doctor`: what it says is what is there, also where a package is missing or broken."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

import lavakv
from lavakv.attention.native import kernel
from lavakv.cli.main import run
from lavakv.diagnosis import machine, packages, paths
from lavakv.diagnosis.report import diagnose, lines
from lavakv.models.home import home
from lavakv.native import build


@pytest.fixture(scope="module")
def found() -> dict:
    return diagnose()


def test_versions_are_those_that_are_imported(found) -> None:
    versions = found["versions"]
    assert versions["lavakv"] == lavakv.__version__
    assert versions["python"] == platform.python_version()
    assert versions["torch"] == torch.__version__
    assert versions["transformers"] == transformers.__version__
    assert found["transformers_range"].startswith(">=5.")
    assert found["problems"] == []


def test_kernels_and_paths_are_those_that_are_used(found) -> None:
    assert found["home"] == str(home())
    about = found["c_kernels"]
    assert about["used"] == (kernel() is not None)
    if about["used"]:
        assert Path(about["library"]).is_file()
    assert found["devices"][0] == {**found["devices"][0], "device": "cpu", "threads": torch.get_num_threads()}
    assert found["decode_paths"]["cpu float32"] == ("C kernels" if about["used"] else "PyTorch operators")
    assert found["decode_paths"]["cpu bfloat16"] == found["decode_paths"]["cpu float32"]


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [("LAVAKV_COMPILE", "0", "LAVAKV_COMPILE=0"), ("CC", "'", "no C compiler")],
)
def test_kernels_that_are_switched_off(variable, value, reason, monkeypatch) -> None:
    monkeypatch.setenv(variable, value)
    build.library.cache_clear()
    assert not paths.c_kernels()["used"]
    assert paths.c_kernels()["reason"].startswith(reason)


def test_triton_that_is_switched_off(monkeypatch) -> None:
    monkeypatch.setenv("LAVAKV_TRITON", "0")
    assert paths.triton_refusals(["cpu"]) == {"cpu": "LAVAKV_TRITON=0"}


def test_settings_are_ours_alone(monkeypatch) -> None:
    monkeypatch.setenv("LAVAKV_HOME", "/somewhere")
    monkeypatch.setenv("SECRET", "not ours")
    assert machine.settings()["LAVAKV_HOME"] == "/somewhere"
    assert all(name.startswith("LAVAKV_") for name in machine.settings())


def test_a_compiler_that_does_not_start_is_named(monkeypatch) -> None:
    monkeypatch.setenv("CC", "/no/such/compiler -x")
    assert next(iter(machine.compilers().items())) == ("/no/such/compiler -x", None)


def test_the_range_is_that_of_the_metadata(monkeypatch) -> None:
    required = ["torch>=2", "transformers-extra>=1", 'transformers<6,>=5.17; python_version > "3"', "numpy"]
    monkeypatch.setattr(packages, "requires", lambda _: required)
    assert packages.transformers_range() == ">=5.17,<6"
    monkeypatch.setattr(packages, "requires", lambda _: None)
    assert packages.transformers_range() is None


def test_json_is_what_the_library_finds(found, capsys) -> None:
    assert run(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == found.keys()
    assert told["versions"] == found["versions"]


def test_text_is_a_line_a_fact(found, capsys) -> None:
    assert run(["doctor"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == list(lines(found))
    assert f"torch: {torch.__version__}" in shown
    assert f"transformers: {transformers.__version__} (lavakv needs {found['transformers_range']})" in shown
    assert f"decode step: cpu float32: {found['decode_paths']['cpu float32']}" in shown


def _doctor(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command where modules of a folder come before those that are installed."""
    code = "import sys; from lavakv.cli.main import main; main()"
    search = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": search}
    return subprocess.run(
        [sys.executable, "-c", code, "doctor", *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("module", ["torch", "transformers"])
def test_a_broken_package_is_named_and_the_rest_is_told(module, tmp_path: Path) -> None:
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text("raise OSError('libfoo.so.1:\\ncannot open shared object')")
    done = _doctor(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    problems = [line.removeprefix("PROBLEM: ") for line in done.stdout.splitlines() if line.startswith("PROBLEM")]
    assert f"{module}: OSError: libfoo.so.1: cannot open shared object" in problems
    assert any(line.startswith("lavakv with transformers: ") for line in problems)
    assert f"python: {platform.python_version()}" in done.stdout
    if module == "torch":
        assert "device: unknown (OSError: libfoo.so.1: cannot open shared object)" in done.stdout
        assert "decode step: unknown (OSError" in done.stdout
    else:
        assert "decode step: cpu float32: " in done.stdout


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    found = json.loads(_doctor(tmp_path, "--json").stdout)
    assert found["problems"][0].startswith("torch: ModuleNotFoundError")
    assert found["devices"]["error"].startswith("ModuleNotFoundError")
    assert found["c_kernels"]["error"].startswith("ModuleNotFoundError")
    assert found["versions"]["lavakv"] == lavakv.__version__


def test_a_required_package_that_is_not_installed_is_listed_as_missing(monkeypatch) -> None:
    monkeypatch.setattr(packages, "REQUIRED", ("torch", "no-such-package"))
    assert packages.versions()["no-such-package"] is None
    told = list(lines({**diagnose(), "versions": packages.versions()}))
    assert "no-such-package: missing" in told
