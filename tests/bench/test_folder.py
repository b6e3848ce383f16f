"""A benchmark's folder while the disk fails."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from lavakv.bench.folder import RECORDS, BenchFolder
from lavakv.errors import DiskError


class _Record:
    """Stands in for a `SettingRecord`, of which a folder writes the fields."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def as_dict(self) -> dict[str, int]:
        return {"tokens": self._tokens}


def test_a_full_disk_is_named_and_earlier_lines_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = BenchFolder(tmp_path / "run")
    folder.add(_Record(1), {"weights": "random"})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(DiskError, match=r"--out: .*No space left on device"):
            folder.add(_Record(2), {"weights": "random"})
    folder.add(_Record(3), {"weights": "random"})
    lines = (tmp_path / "run" / RECORDS).read_text().splitlines()
    assert [json.loads(line)["tokens"] for line in lines] == [1, 3]
