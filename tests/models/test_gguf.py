"""GGUF files: converted once, refused when damaged."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import gguf
import numpy
import pytest

from lavakv import ModelError
from lavakv.models import gguf as conversion
from lavakv.models.gguf import converted_dir
from lavakv.models.gguf_file import gguf_architecture
from lavakv.models.home import home


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LAVAKV_HOME", str(tmp_path / "home"))


def _gguf(file: Path, architecture: str = "llama") -> Path:
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", numpy.ones((4, 32), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_not_a_gguf(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04 a zip")
    with pytest.raises(ModelError, match="expected a GGUF file, got a file that starts with b'PK"):
        converted_dir(tmp_path / "x.gguf")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    with pytest.raises(ModelError, match="expected a GGUF file"):
        converted_dir(tmp_path / "x.gguf")


@pytest.mark.parametrize("kept", [8, 24, 100, 0.9])
def test_a_cut_file_leaves_nothing_behind(kept, tmp_path: Path) -> None:
    whole = _gguf(tmp_path / "whole.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: kept if kept > 1 else int(kept * len(whole))])
    with pytest.raises(ModelError, match="expected a whole GGUF file"):
        converted_dir(cut)
    assert not list(home().glob("gguf-*/*"))


def test_an_architecture_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected an architecture that transformers .* got 'nonesuch'") as caught:
        converted_dir(_gguf(tmp_path / "x.gguf", "nonesuch"))
    assert "ownload" not in caught.value.fix  # the file is whole: another copy would not help


@pytest.mark.parametrize("architecture", ["llama", "qwen2moe", "nonesuch"])
def test_the_architecture_is_read_from_the_first_bytes(architecture, tmp_path: Path) -> None:
    assert gguf_architecture(_gguf(tmp_path / "x.gguf", architecture)) == architecture


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + bytes(20), b"GGUF" + b"\xff" * 60])
def test_files_that_tell_no_architecture(content, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    assert gguf_architecture(tmp_path / "x.gguf") is None


def test_missing_packages_are_named(tmp_path: Path, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else find(name))
    with pytest.raises(ModelError, match=r"got no gguf. Install them: pip install 'lavakv\[gguf\]'"):
        converted_dir(_gguf(tmp_path / "x.gguf"))


def test_the_same_content_is_converted_once(tmp_path: Path, monkeypatch) -> None:
    conversions: list[Path] = []

    def convert(file: Path, folder: Path) -> None:
        conversions.append(file)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(conversion, "convert", convert)
    first, second = _gguf(tmp_path / "a.gguf"), tmp_path / "b.gguf"
    second.write_bytes(first.read_bytes())
    assert converted_dir(first) == converted_dir(second)
    assert len(conversions) == 1
