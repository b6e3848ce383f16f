"""A finished or unfinished run, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavakv.errors import InputError
from lavakv.evaluation.record import Record
from lavakv.evaluation.records import FILE, read_finished

SETTINGS, HTML = "run.json", "report.html"


@dataclass(frozen=True, slots=True)
class Run:
    """All records of a run, one a (prompt, policy, budget).

    Attributes:
        name: of its folder.
        records: as written, in file order; of a repeated one, the first.
        settings: what `run.json` says; empty where there is none.
        num_repeated: records that came again and are left out.
        is_torn: the last line was never finished, as after a kill or while the run goes on; it is left out.
    """

    name: str
    records: list[Record]
    settings: Mapping[str, Any]
    num_repeated: int
    is_torn: bool

    @property
    def about(self) -> Mapping[str, Any]:
        """Model, versions and arguments, as the last record has them."""
        about: Mapping[str, Any] = self.records[-1]["run"]
        return about


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        LavaError: no such folder, no records in it, a broken line (named with its number), another version's records.
    """
    file = require_run(folder)
    finished = read_finished(file)
    if not finished.records:
        raise InputError("run", expected="at least one record", got=f"none in {file}", fix="Run `lavakv eval` first.")
    records = list(finished.records.values())
    return Run(folder.resolve().name, records, _settings(folder), finished.num_repeated, finished.is_torn)


def require_run(folder: Path) -> Path:
    """The file of a run's records.

    Raises:
        InputError: the folder has none.
    """
    file = folder / FILE
    if not file.is_file():
        got = f"{folder}, which has none" if folder.is_dir() else f"{folder}, which is no folder"
        raise InputError(
            "run", expected=f"a folder with {FILE}, written by `lavakv eval`", got=got, fix="Check the path."
        )
    return file


def example_key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes two records answers to the same prompt."""
    return record["task"], record["example"], record["group"], record["length"], record["depth"]


def _settings(folder: Path) -> Mapping[str, Any]:
    file = folder / SETTINGS
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError("run", expected="JSON", got=f"{file}: {error}", fix="Restore or delete it.") from error
    return settings if isinstance(settings, dict) else {}
