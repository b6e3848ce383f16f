"""JSON lines: from records to bytes, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lavakv.errors import ResultsError


class Lines(NamedTuple):
    """The finished lines of a file.

    Attributes:
        objects: line number, from 1, and JSON object; lines of white space alone are passed over.
        is_torn: something follows the last line feed. It was never finished, and is left out.
    """

    objects: list[tuple[int, dict[str, Any]]]
    is_torn: bool


def to_line(record: Mapping[str, Any]) -> bytes:
    """One JSON object and a line feed in UTF-8; lone surrogates, which UTF-8 has not, stay JSON escapes."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def read_lines(path: Path) -> Lines:
    """Read a file.

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
            f"{path}, line {number}",
            expected="a JSON object",
            got=got,
            fix="Remove the line, and what it held is computed anew; or restore the file.",
        )
    return record
