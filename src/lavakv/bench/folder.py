"""The folder with a run's records and curves."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavakv.errors import InputError
from lavakv.evaluation.jsonl import JsonLog
from lavakv.files import require_writable, unwritable
from lavakv.report.draw.files import require_drawable

if TYPE_CHECKING:
    from lavakv.bench.record import SettingRecord

RECORDS, CURVES = "results.jsonl", "curves.svg"


def require_new_folder(path: Path) -> None:
    """Check before the work that a run's folder can be created; creates it, empty.

    Raises:
        InputError: it cannot be written, or holds another run's results.
        UnsupportedError: jinja2 is not installed.
    """
    require_drawable("--out", path / CURVES)
    records = path / RECORDS
    if records.exists() or (path.exists() and not path.is_dir()):
        got = f"{records}, which exists" if path.is_dir() else f"{path}, which is a file"
        raise InputError("--out", expected="a new folder", got=got, fix="Name another folder.")
    require_writable("--out", records, make_folder=True)


class BenchFolder:
    """A folder with `results.jsonl`, a line a setting as each is done, and `curves.svg`, drawn at the end.

    Args:
        path: the folder; created if it does not exist.

    Raises:
        InputError: it cannot be written, or holds another run's results.
        UnsupportedError: jinja2 is not installed.
    """

    def __init__(self, path: Path) -> None:
        require_new_folder(path)
        self._path, self._records = path, path / RECORDS
        try:
            self._records.open("x").close()
        except OSError as error:  # another process created it, or the disk is full
            raise unwritable("--out", self._records, error) from error
        self._done: list[SettingRecord] = []

    def add(self, record: SettingRecord, about: Mapping[str, Any]) -> None:
        """Append one setting; it is on disk when this returns.

        Raises:
            InputError: the file can no longer be written.
            DiskError: the disk is full or broken.
        """
        self._done.append(record)
        with closing(JsonLog(self._records, partial(unwritable, "--out", self._records))) as log:
            log.append({**record.as_dict(), **about})

    def finish(self) -> None:
        """Draw the curves."""
        from lavakv.bench.plot import plot_curves  # loads PyTorch, which checking a folder does not need

        plot_curves(self._done, self._path / CURVES)
