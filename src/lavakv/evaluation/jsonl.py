"""JSON lines on disk: reading them, appending so that no finished line is ever lost, and replacing whole files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lavakv.errors import DiskError, LavaError, ResultsError, is_disk_error, remedy
from lavakv.files import write_file


class Lines(NamedTuple):
    """The finished lines of a file.

    Attributes:
        objects: line number, from 1, and JSON object; blank lines are skipped.
        is_torn: something follows the last line feed. It was never finished, and is left out.
    """

    objects: list[tuple[int, dict[str, Any]]]
    is_torn: bool


def to_line(record: Mapping[str, Any]) -> bytes:
    """One JSON object and a line feed in UTF-8; lone surrogates, which UTF-8 cannot hold, stay JSON escapes."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def read_lines(path: Path) -> Lines:
    """Read the finished lines of a file.

    Raises:
        ResultsError: a line that is no JSON object, named with its number, or a file that cannot be read.
    """
    objects, line = [], b"\n"
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n") and line.strip():
                    objects.append((number, _parsed(path, number, line)))
    except OSError as error:
        raise ResultsError(
            str(path), expected="a file that can be read", got=error.strerror or str(error), fix="Check the path."
        ) from error
    return Lines(objects, not line.endswith(b"\n"))


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        record = error
    if not isinstance(record, dict):
        got = str(record) if isinstance(record, ValueError) else type(record).__name__
        raise ResultsError(
            f"{path}, line {number}", expected="a JSON object", got=got,
            fix="Remove the line; the same evaluation computes its record again. Or restore the file.",
        )  # fmt: skip
    return record


class JsonLog:
    """Appends lines, each on disk before `append` returns; an unfinished last line is cut off when it opens.

    Args:
        path: the file; created if it does not exist.
        failed: makes the error to raise from what the system said; `cannot_write` by default.

    Raises:
        ResultsError: the file cannot be opened or written, or whatever `failed` makes.
    """

    def __init__(self, path: Path, failed: Callable[[OSError], LavaError] | None = None) -> None:
        self._failed = failed or partial(cannot_write, path)
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
            os.ftruncate(self._descriptor, _finished_bytes(path))
        except OSError as error:
            raise self._failed(error) from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line.

        Raises:
            ResultsError: as above; the file is as it was before.
        """
        data, before = memoryview(to_line(record)), os.fstat(self._descriptor).st_size
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except BaseException as error:
            os.ftruncate(self._descriptor, before)
            if isinstance(error, OSError):
                raise self._failed(error) from error
            raise

    def close(self) -> None:
        """Close the file."""
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


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file by these records, one a line; all of them or, if anything fails, none.

    Raises:
        ResultsError: it cannot be written; the old one is unchanged.
    """
    write_file(path, map(to_line, records), partial(cannot_write, path))


def write_json(path: Path, value: Any) -> None:
    """Replace a file by one indented JSON document.

    Raises:
        ResultsError: it cannot be written; the old one is unchanged.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_file(path, [text.encode()], partial(cannot_write, path))


def cannot_write(path: Path, error: OSError) -> ResultsError:
    """The error for results that cannot be written: `DiskError` for a full or broken disk, else `ResultsError`."""
    fix = remedy(error, path if path.is_dir() else path.parent)
    return (DiskError if is_disk_error(error) else ResultsError)(
        str(path),
        expected="a file that can be written",
        got=error.strerror or str(error),
        fix=f"{fix} Finished records are kept: run the same command again to resume.",
    )
