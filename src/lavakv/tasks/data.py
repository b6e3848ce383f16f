"""Records from JSON lines files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from lavakv.errors import TaskError

Item = TypeVar("Item")


def read_lines(
    path: Path, parse: Callable[[dict[str, Any], int], Item], *, skip_broken: bool = False
) -> Iterator[Item]:
    r"""Every record of a file, parsed. Only `\n` ends a line: records hold other line ends inside their strings.

    Args:
        path: the file, UTF-8.
        parse: makes an item of a record and its index; raises `KeyError`, `TypeError` or `ValueError` for a bad one.
        skip_broken: leave broken lines out.

    Raises:
        TaskError: no such file, or a broken line, with its number.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise TaskError(
            str(path), expected="a data file", got=error.strerror or str(error), fix="Check --data-dir."
        ) from error
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            yield parse(_record(line), index)
        except (KeyError, TypeError, ValueError) as error:
            if not skip_broken:
                raise _broken(path, index + 1, error) from error


def _record(line: bytes) -> dict[str, Any]:
    record = json.loads(line.decode("utf-8"))
    if not isinstance(record, dict):
        raise TypeError(f"a record is a JSON object, this is {type(record).__name__}")
    return record


def _broken(path: Path, number: int, error: Exception) -> TaskError:
    what = f"no field {error}" if isinstance(error, KeyError) else str(error)
    return TaskError(
        f"{path}, line {number}", expected="a record of the task", got=what, fix="Mend it, or ask to skip broken lines."
    )
