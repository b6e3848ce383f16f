"""What a model's name stands for, and what cannot be one, found from names and small files alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavakv import ModelError
from lavakv.models.source import Source, source_of
from tests.errors import assert_all_parts


def _folder(folder: Path, **files: str) -> str:
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return str(folder)


def test_what_names_stand_for(tmp_path: Path) -> None:
    model = _folder(tmp_path / "model", config__json='{"model_type": "llama"}', model__safetensors="")
    (tmp_path / "x.bin").write_bytes(b"GGUF\x03\x00\x00\x00")
    assert source_of("smollm2") == Source("default")
    assert source_of("owner/name") == Source("hub")
    assert source_of(model) == Source("directory", tmp_path / "model")
    assert source_of(str(tmp_path / "x.bin")) == Source("gguf", tmp_path / "x.bin")


@pytest.mark.parametrize(
    ("files", "got"),
    [
        ({}, "a directory without config.json"),
        ({"adapter_config__json": "{}"}, "an adapter and no config.json"),
        ({"config__json": "{"}, "config.json, which is not JSON"),
        ({"config__json": "[]", "model__safetensors": ""}, "config.json, which is not a JSON object"),
        ({"config__json": "{}"}, "a directory without weights"),
    ],
)
def test_directories_that_are_no_model(files, got, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        source_of(_folder(tmp_path / "model", **files))
    assert got in caught.value.got
    assert caught.value.fix != "Check the path."
    assert_all_parts(caught.value)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", ""])
def test_names_that_no_system_takes(name) -> None:
    with pytest.raises(ModelError, match=r"^model "):
        source_of(name)
