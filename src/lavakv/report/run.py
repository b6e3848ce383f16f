"""A finished or unfinished run, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavakv.errors import InputError
from lavakv.report.fields import checked

RECORDS, SETTINGS = "records.jsonl", "run.json"


@dataclass(frozen=True, slots=True)
class Run:
    """All records of a run, one a (prompt, policy, budget).

    Attributes:
        name: of its folder.
        records: as written, in file order; of a repeated one, the last.
        settings: what `run.json` says; empty where there is none.
        num_repeated: records that a later one replaced.
        cut_off: the last line is only half there, as after a kill or while the run goes on; it is left out.
    """

    name: str
    records: list[dict[str, Any]]
    settings: Mapping[str, Any]
    num_repeated: int
    cut_off: bool

    @property
    def about(self) -> Mapping[str, Any]:
        """Model, versions and arguments, as the last record has them."""
        about: Mapping[str, Any] = self.records[-1]["run"]
        return about


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        InputError: no such folder, no records in it, a broken line (named with its number), another version's records.
    """
    file, found, num_lines, cut_off = folder / RECORDS, dict[Any, dict[str, Any]](), 0, False
    try:
        with file.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                cut_off = not line.endswith("\n") and not _parses(line)
                if line.strip() and not cut_off:
                    record = checked(line, f"{file}, line {number}")
                    found[record_key(record)] = record
                    num_lines += 1
    except OSError as error:
        raise InputError(
            "run",
            expected=f"a folder with {RECORDS}, written by `lavakv eval`",
            got=f"{file}: {error.strerror}",
            fix="Check the path.",
        ) from error
    except UnicodeDecodeError as error:
        raise InputError("run", expected="UTF-8 text", got=f"{file}: {error.reason}", fix="Restore it.") from error
    if not found:
        raise InputError("run", expected="at least one record", got=f"none in {file}", fix="Run `lavakv eval` first.")
    return Run(folder.resolve().name, list(found.values()), _settings(folder), num_lines - len(found), cut_off)


def record_key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes two records the same: prompt, policy, budget, mode."""
    return (*example_key(record), record["policy"], record["budget"], record["mode"])


def example_key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes two records answers to the same prompt."""
    return record["task"], record["example"], record["group"], record["length"], record["depth"]


def _parses(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _settings(folder: Path) -> Mapping[str, Any]:
    file = folder / SETTINGS
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError("run", expected="JSON", got=f"{file}: {error}", fix="Restore or delete it.") from error
    return settings if isinstance(settings, dict) else {}
