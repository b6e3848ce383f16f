"""A finished or unfinished run of `lavakv eval`, read from its folder into typed records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from lavakv.errors import InputError
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


@dataclass(frozen=True, slots=True)
class Record:
    """The fields of a record that the report reads; `docs/eval.md` describes every field.

    The types are those that `lavakv.evaluation.fields` has checked; `batch_rows` and `batch_steps` are None in records
    that were written before they existed.
    """

    task: str
    benchmark: str
    task_group: str
    metric: str
    example: str
    group: str
    length: int | None
    depth: float | None
    policy: str
    budget: str
    mode: str
    window: int
    kept_fraction: float
    head_entries: list[list[int]] | None
    kv_bytes: int
    full_kv_bytes: int
    prompt_tokens: int
    truncated: bool
    prompt_head: str
    prompt_tail: str
    prediction: str
    answers: list[Any]
    new_tokens: int
    score: float | None
    seconds: Mapping[str, float]
    run: Mapping[str, Any]
    batch_rows: int | None
    batch_steps: int | None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Record:
        """Make one of a record that was checked when it was read."""
        values: dict[str, Any] = {field.name: record.get(field.name) for field in fields(cls)}
        return cls(**values)

    @property
    def key(self) -> ExampleKey:
        """The prompt that it answers."""
        return ExampleKey(self.task, self.example, self.group, self.length, self.depth)


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
        return self.records[-1].run


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        LavaError: no such folder, no records in it, a broken line (named with its number), another version's records.
    """
    file = require_run(folder)
    finished = read_finished(file)
    if not finished.records:
        raise InputError("run", expected="at least one record", got=f"none in {file}", fix="Run `lavakv eval` first.")
    records = [Record.of(record) for record in finished.records.values()]
    return Run(folder.resolve().name, records, _settings(folder), finished.num_repeated, finished.is_torn)


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
