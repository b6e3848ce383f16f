"""A results folder: one run at a time writes into it, and it only ever holds one run's records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from lavakv.errors import ResultsError
from lavakv.evaluation.disk import JsonLog, cannot_write, write_whole
from lavakv.evaluation.jsonl import to_line
from lavakv.evaluation.records import FILE, SCHEMA, RecordKey, by_key, read_records

RUN, SUMMARY, LOCK, EARLIER = "run.json", "summary.json", ".lock", "earlier"
_OURS = (FILE, RUN, SUMMARY, "report*")


@contextmanager
def locked(path: Path) -> Iterator[RunFolder]:
    """Hold a results folder; it is made if it is not there. The lock goes with the process, however that ends.

    Raises:
        ResultsError: another process holds it, or it cannot be written.
    """
    lock = _held(path)
    try:
        yield RunFolder(path)
    finally:
        lock.release()


def _held(path: Path) -> BaseFileLock:
    lock = FileLock(path / LOCK, timeout=0)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise ResultsError(
            str(path), expected="a folder that no other run uses", got="one that another run is writing into",
            fix="Wait for it, stop it, or give another --out.",
        ) from error  # fmt: skip
    except OSError as error:
        raise cannot_write(path, error) from error
    return lock


class RunFolder:
    """A folder that this process holds.

    Attributes:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def settings(self) -> dict[str, Any] | None:
        """What its records were computed with, or None while it holds none.

        Raises:
            ResultsError: records without settings, or settings that cannot be read.
        """
        file = self.path / RUN
        if not file.exists():
            if (self.path / FILE).exists():
                raise _unusable(self.path, f"{FILE} without {RUN}", "Give another --out, or --anew to put it aside.")
            return None
        try:
            stored = json.loads(file.read_bytes())
        except ValueError as error:
            raise _unusable(file, str(error), "Restore it, give another --out, or --anew to put it aside.") from error
        if not isinstance(stored, dict) or stored.get("schema") != SCHEMA:
            got = f"schema {stored.get('schema')!r}" if isinstance(stored, dict) else type(stored).__name__
            raise _unusable(file, got, "It is another version's: give another --out, or --anew to put it aside.")
        return stored

    def require(self, wanted: Mapping[str, Any]) -> None:
        """Check that the folder is empty or holds records of the same settings, as far as they are given.

        Raises:
            ResultsError: other settings, another version, or something unreadable, with what differs.
        """
        stored = self.settings()
        differing = [] if stored is None else list(_differences("", stored, wanted))
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise ResultsError(
                str(self.path), expected="a new folder, or the same settings as before",
                got="; ".join(differing[:3]) + more,
                fix="Its records are untouched. Give the old settings to go on, another --out, "
                f"or --anew to start anew (the old records move to {EARLIER}/).",
            )  # fmt: skip

    def put_aside(self) -> Path | None:
        """Move what is there to a subfolder; returns it, or None if there was nothing."""
        files = [file for pattern in _OURS for file in sorted(self.path.glob(pattern))]
        if not files:
            return None
        number = 1
        while (self.path / EARLIER / str(number)).exists():
            number += 1
        place = self.path / EARLIER / str(number)
        place.mkdir(parents=True)
        for file in files:
            file.replace(place / file.name)
        return place

    def claim(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Write the settings if the folder is new. Returns those that are in force: of an interrupted run its own.

        Raises:
            ResultsError: as `require`, or the disk is full.
        """
        self.require({name: settings[name] for name in ("schema", "run", "tasks")})
        stored = self.settings()
        if stored is None:
            write_whole(self.path / RUN, [json.dumps(settings, indent=1, ensure_ascii=False).encode() + b"\n"])
            return settings
        return stored

    def records(self) -> dict[RecordKey, dict[str, Any]]:
        """The finished records.

        Raises:
            ResultsError: a line that is none, named with its number.
        """
        return by_key(read_records(self.path)) if (self.path / FILE).exists() else {}

    def log(self) -> JsonLog:
        """The open file of records, to add to."""
        return JsonLog(self.path / FILE)

    def rewrite(self, records: list[dict[str, Any]]) -> None:
        """Put records in another order or with other scores, all or nothing."""
        write_whole(self.path / FILE, map(to_line, records))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write what the run reports about itself."""
        write_whole(self.path / SUMMARY, [json.dumps(summary, indent=1, ensure_ascii=False).encode() + b"\n"])


def _differences(name: str, stored: Any, wanted: Any) -> Iterator[str]:
    """What differs, in words; only names that are wanted are looked at."""
    if isinstance(stored, dict) and isinstance(wanted, Mapping):
        for key, value in wanted.items():
            if key != "passed":
                yield from _differences(f"{name}.{key}".lstrip("."), stored.get(key), value)
    elif stored != wanted:
        yield f"{name.removeprefix('run.').removeprefix('arguments.')} was {_shown(stored)}, is {_shown(wanted)}"


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _unusable(path: Path, got: str, fix: str) -> ResultsError:
    return ResultsError(str(path), expected="the results of an evaluation by this version", got=got, fix=fix)
