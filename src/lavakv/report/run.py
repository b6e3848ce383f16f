"""A finished or unfinished run of `lavakv eval`, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lavakv.errors import InputError
from lavakv.evaluation.record import Record
from lavakv.evaluation.records import FILE, read_finished

SETTINGS, HTML = "run.json", "report.html"


class ExampleKey(NamedTuple):
    """Identifies a prompt: records with the same key answer the same prompt.

    Attributes:
        task: name.
        example: name within the task.
        group: bucket within the task, or "".
        length: requested prompt tokens of a generated example, or None.
        depth: of the needle, in percent, or None.
    """

    task: str
    example: str
    group: str
    length: int | None
    depth: float | None


def example_key(record: Record) -> ExampleKey:
    """The prompt that a record answers."""
    return ExampleKey(record["task"], record["example"], record["group"], record["length"], record["depth"])


@dataclass(frozen=True, slots=True)
class Run:
    """All records of a run, one for each prompt, policy and budget.

    Attributes:
        name: of its folder.
        records: in file order; of a repeated record, the first.
        settings: the contents of `run.json`; empty if there is none.
        num_repeated: repeated records, which are skipped.
        is_torn: the last line is incomplete, as after a kill or while the run goes on; it is skipped.
    """

    name: str
    records: list[Record]
    settings: Mapping[str, Any]
    num_repeated: int
    is_torn: bool

    @property
    def about(self) -> Mapping[str, Any]:
        """Model, versions and arguments, as the last record has them."""
        return self.records[-1]["run"]


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        LavaError: no such folder, no records in it, a broken line (named with its number), another version's records.
    """
    file = require_run(folder)
    finished = read_finished(file)
    if not finished.records:
        raise InputError("run", expected="at least one record", got=f"none in {file}", fix="Run `lavakv eval` first.")
    records: Any = finished.records.values()  # checked against `Record` when they were read
    return Run(folder.resolve().name, list(records), _settings(folder), finished.num_repeated, finished.is_torn)


def require_run(folder: Path) -> Path:
    """Return the file of a run's records.

    Raises:
        InputError: the folder has none.
    """
    file = folder / FILE
    if not file.is_file():
        got = f"{folder}, which has none" if folder.is_dir() else f"{folder}, which is not a folder"
        raise InputError(
            "run", expected=f"a folder with {FILE}, written by `lavakv eval`", got=got, fix="Check the path."
        )
    return file


def _settings(folder: Path) -> Mapping[str, Any]:
    file = folder / SETTINGS
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError("run", expected="JSON", got=f"{file}: {error}", fix="Restore or delete it.") from error
    return settings if isinstance(settings, dict) else {}
