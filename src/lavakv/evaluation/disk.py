"""Files that never lose what is finished: not to a kill, not to a full disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lavakv.errors import DiskError, ResultsError
from lavakv.evaluation.jsonl import to_line
from lavakv.files import is_disk_error, remedy


class JsonLog:
    """Appends lines, each on disk before `append` returns; an unfinished last line is cut off when it opens.

    Raises:
        ResultsError: the file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
            os.ftruncate(self._descriptor, _finished_bytes(path))
        except OSError as error:
            raise cannot_write(path, error) from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line.

        Raises:
            ResultsError: it cannot be written; the file is as it was before.
        """
        data, before = memoryview(to_line(record)), os.fstat(self._descriptor).st_size
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except BaseException as error:
            os.ftruncate(self._descriptor, before)
            if isinstance(error, OSError):
                raise cannot_write(self._path, error) from error
            raise

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)


def _finished_bytes(path: Path) -> int:
    """Length up to and with the last line feed."""
    size = path.stat().st_size
    with path.open("rb") as file:
        end = size
        while end:
            start = max(end - 65536, 0)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def write_whole(path: Path, lines: Iterable[bytes]) -> None:
    """Write a file so that at any moment either the old one or the whole new one is there.

    Raises:
        ResultsError: it cannot be written; the old one is untouched.
    """
    staged = path.with_name(f"{path.name}.new")
    try:
        with staged.open("wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> ResultsError:
    """The error for a results file that cannot be written: `DiskError` where the disk is to blame, not the path."""
    fix = remedy(error, path if path.is_dir() else path.parent)
    return (DiskError if is_disk_error(error) else ResultsError)(
        str(path),
        expected="a file that can be written",
        got=error.strerror or str(error),
        fix=f"{fix} Finished records are kept: run the same command again to resume.",
    )
