"""Folders made once: by one process only, and never half."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lavakv import ModelError
from lavakv.models.home import get_or_make_folder, home


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LAVAKV_HOME", str(tmp_path / "home"))


def test_a_folder_is_made_once_however_many_ask() -> None:
    made: list[Path] = []

    def make(staged: Path, scratch: Path) -> None:
        made.append(staged)
        (staged / "config.json").write_text("{}")
        (scratch / "download").write_text("large")

    threads = [threading.Thread(target=get_or_make_folder, args=("model", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert sorted(file.name for file in (home() / "model").iterdir()) == ["config.json"]
    assert not [entry for entry in home().iterdir() if entry.name.startswith("model-")]


def test_an_interrupted_making_leaves_nothing_and_can_be_repeated() -> None:
    def stopped(staged: Path, scratch: Path) -> None:
        (staged / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get_or_make_folder("model", stopped)
    assert not (home() / "model").exists()
    assert get_or_make_folder("model", lambda staged, _: (staged / "config.json").touch()) == home() / "model"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LAVAKV_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="LAVAKV_HOME"):
        get_or_make_folder("model", lambda *_: None)


def test_errors_of_making_pass_through() -> None:
    def fails(*_: Path) -> None:
        raise ModelError("m", expected="a", got="b", fix="c")

    with pytest.raises(ModelError, match="m: expected a"):
        get_or_make_folder("model", fails)
