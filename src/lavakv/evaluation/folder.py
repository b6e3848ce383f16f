"""A results folder: one run at a time writes into it, and it only ever holds one run's records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import BaseFileLock, FileLock, Timeout

from lavakv.errors import ResultsError
from lavakv.evaluation.archive import EARLIER, RUN, SUMMARY, archive_run, undo_partial_archive
from lavakv.evaluation.differences import Difference, can_restart, describe, differences
from lavakv.evaluation.jsonl import JsonLog, cannot_write, write_json, write_lines
from lavakv.evaluation.record import SCHEMA, Record
from lavakv.evaluation.record_keys import RecordKey
from lavakv.evaluation.records import FILE, read_finished

LOCK = ".lock"


class Claim(NamedTuple):
    """A folder that belongs to a run now.

    Attributes:
        settings: of the resumed run, or of the new one.
        earlier: where the previous run was archived; None if there was none, or it is resumed.
        changed: settings that differ from the previous run's.
    """

    settings: dict[str, Any]
    earlier: Path | None
    changed: list[Difference]


@contextmanager
def locked(path: Path) -> Iterator[RunFolder]:
    """Lock a results folder, made if it is missing. The lock ends with the process, however that ends.

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
        undo_partial_archive(path)
    except Timeout as error:
        raise ResultsError(
            str(path), expected="a folder that no other run uses", got="one that another run is writing into",
            fix="Wait for it, stop it, or give another --out.",
        ) from error  # fmt: skip
    except OSError as error:
        lock.release()
        raise cannot_write(path, error) from error
    return lock


class RunFolder:
    """A folder that this process has locked.

    Attributes:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def settings(self) -> dict[str, Any] | None:
        """Settings of its records, or None if it holds none.

        Raises:
            ResultsError: records without settings, or settings that cannot be read.
        """
        file = self.path / RUN
        if not file.exists():
            if (self.path / FILE).exists():
                raise _unusable(self.path, f"{FILE} without {RUN}", "Give another --out, or --restart to archive it.")
            return None
        try:
            stored = json.loads(file.read_bytes())
        except ValueError as error:
            raise _unusable(file, str(error), "Restore it, give another --out, or --restart to archive it.") from error
        if not isinstance(stored, dict) or stored.get("schema") != SCHEMA:
            got = f"schema {stored.get('schema')!r}" if isinstance(stored, dict) else type(stored).__name__
            raise _unusable(file, got, "Another version wrote it: give another --out, or --restart to archive it.")
        return stored

    def changes(self, requested: Mapping[str, Any]) -> list[Difference]:
        """Settings that differ from those of the run in the folder; none if it is the same one, or the folder is empty.

        Args:
            requested: as in `run.json`, as far as it is known.

        Raises:
            ResultsError: another version, unreadable settings, or a difference that no setting explains.
        """
        stored = self.settings()
        found = [] if stored is None else list(differences(stored, requested))
        if found and not can_restart(found):
            raise ResultsError(
                str(self.path), expected="a new folder, or a run by the same versions on the same device",
                got=describe(found),
                fix="Its records are untouched. Resume with what wrote them, give another --out, "
                f"or --restart to archive them in {EARLIER}/ and start a new run.",
            )  # fmt: skip
        return [each for each in found if each.is_setting]

    def archive(self) -> Path | None:
        """Move the run to a subfolder; returns that, or None if there was no run.

        Raises:
            ResultsError: it cannot be moved.
        """
        return archive_run(self.path)

    def claim(self, settings: dict[str, Any], *, restart: bool = False) -> Claim:
        """Take the folder for a run: resume the same one; archive one with other settings.

        Args:
            settings: what `run.json` should hold.
            restart: archive any run in the folder.

        Raises:
            ResultsError: as `changes`, or the disk is full.
        """
        changed = [] if restart else self.changes({name: settings[name] for name in ("schema", "run", "tasks")})
        earlier = self.archive() if restart or changed else None
        stored = self.settings()
        if stored is None:
            self.write_settings(settings)
        return Claim(settings if stored is None else stored, earlier, changed)

    def records(self) -> dict[RecordKey, Record]:
        """The finished records.

        Raises:
            ResultsError: a line that is not a record, named with its number.
        """
        return read_finished(self.path).records if (self.path / FILE).exists() else {}

    def log(self) -> JsonLog:
        """The open file of records, to add to."""
        return JsonLog(self.path / FILE)

    def rewrite(self, records: list[Record]) -> None:
        """Replace all records, e.g. by the same ones in another order or with other scores."""
        write_lines(self.path / FILE, records)

    def write_settings(self, settings: dict[str, Any]) -> None:
        """Write the settings of its records."""
        write_json(self.path / RUN, settings)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write the run's summary."""
        write_json(self.path / SUMMARY, summary)


def _unusable(path: Path, got: str, fix: str) -> ResultsError:
    return ResultsError(str(path), expected="the results of an evaluation by this version", got=got, fix=fix)
