"""Files written at the end: tried first, whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from lavakv.errors import DiskError, InputError
from lavakv.files import require_writable, write_whole


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("old")
    require_writable("--csv", file)
    assert file.read_text() == "old"
    write_whole("--csv", file, b"new")
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("x.csv", "new")]


def test_folders_are_made_only_where_asked(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "x.html"
    with pytest.raises(InputError, match=r"--out: expected a file that can be written, got .*x\.html"):
        require_writable("--out", file)
    assert not file.parent.exists()
    require_writable("--out", file, make_folder=True)
    assert list(file.parent.iterdir()) == []
    write_whole("--out", file, b"page", make_folder=True)
    assert file.read_bytes() == b"page"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which is a folder"):
        require_writable("--out", tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe, received = tmp_path / "pipe", []
    os.mkfifo(pipe)
    require_writable("--csv", pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write_whole("--csv", pipe, b"rows")
    reader.join()
    assert received == [b"rows"]
    assert pipe.is_fifo()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_not_the_path_s_fault() -> None:
    with pytest.raises(DiskError, match="No space left on device"):
        write_whole("--csv", Path("/dev/full"), b"rows")


def test_what_was_there_survives_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.csv"
    file.write_text("old")

    def full(partial: Path, data: bytes) -> int:
        partial.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskError, match="No space left on device"):
        write_whole("--csv", file, b"new")
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("x.csv", "old")]
