"""Reading a task's records one by one; an error names the broken one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from lavakv.errors import TaskError

Item = TypeVar("Item")
Parse = Callable[[dict[str, Any], int], Item]
"""Makes an item of a record and its index; raises `LookupError`, `TypeError` or `ValueError` for a bad record."""


def read_lines(path: Path, parse: Parse[Item], *, skip_broken: bool = False) -> Iterator[Item]:
    r"""Every record of a JSON lines file. Only `\n` ends a line: records hold other line ends inside their strings.

    Args:
        path: the file, UTF-8.
        parse: makes an item of each line.
        skip_broken: skip broken lines.

    Raises:
        TaskError: no such file, or a broken line, named with its number.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise TaskError(
            str(path), expected="a data file", got=error.strerror or str(error), fix="Check --data-dir."
        ) from error

    def parse_line(line: bytes, index: int) -> Item:
        record = json.loads(line.decode("utf-8"))
        if not isinstance(record, dict):
            raise TypeError(f"{type(record).__name__}, not an object")
        return parse(record, index)

    numbered = [(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
    return _parsed(numbered, parse_line, skip_broken)


def read_records(
    records: Iterable[dict[str, Any]], name: str, parse: Parse[Item], *, skip_broken: bool = False
) -> Iterator[Item]:
    """Every record of a loaded data set.

    Args:
        records: of the data set.
        name: of the data set, for errors.
        parse: makes an item of each.
        skip_broken: skip broken records.

    Raises:
        TaskError: a broken record, named with its index.
    """
    return _parsed(((f"{name}, record {index}", record) for index, record in enumerate(records)), parse, skip_broken)


def _parsed(named: Iterable[tuple[str, Any]], parse: Callable[[Any, int], Item], skip_broken: bool) -> Iterator[Item]:
    for index, (name, record) in enumerate(named):
        try:
            item = parse(record, index)
        except (LookupError, TypeError, ValueError) as error:
            if skip_broken:
                continue
            what = f"no field {error}" if isinstance(error, KeyError) else str(error)
            fix = "Fix that record, or skip broken ones (--skip-broken)."
            raise TaskError(name, expected="a record of the task", got=what, fix=fix) from error
        yield item


def strings(values: Any) -> tuple[str, ...]:
    """A record's answers, a list or a single one, as text.

    Raises:
        TypeError: an answer that is neither text nor a number.
        ValueError: no answers, or only empty ones.
    """
    listed = values if isinstance(values, list | tuple) else [values]
    for value in listed:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise TypeError(f"an answer that is {type(value).__name__}, neither text nor a number")
    answers = tuple(map(str, listed))
    if not any(answer.strip() for answer in answers):
        raise ValueError("no answers")
    return answers


def text(record: dict[str, Any], field: str) -> str:
    """A field that must be text.

    Raises:
        KeyError: no such field.
        TypeError: the field is not text.
    """
    value = record[field]
    if not isinstance(value, str):
        raise TypeError(f"{field} is {type(value).__name__}, not text")
    return value
