"""Records of an evaluation: one JSON object for each prompt, policy and budget.

Runner and report read them here, by one rule: what follows the last line feed was never finished, and of two finished
ones the first counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lavakv.evaluation.fields import SCHEMA, check
from lavakv.evaluation.jsonl import read_lines
from lavakv.evaluation.record_keys import RecordKey

FILE = "records.jsonl"


class Finished(NamedTuple):
    """What a file of records holds.

    Attributes:
        records: by key, in file order.
        num_repeated: records that came again and are left out.
        is_torn: the file does not end in a line feed, as after a kill or while a run goes on; that line is left out.
    """

    records: dict[RecordKey, dict[str, Any]]
    num_repeated: int
    is_torn: bool


def assembled(
    about: Mapping[str, Any], measured: Mapping[str, Any], score: float, score_seconds: float, run: Mapping[str, Any]
) -> dict[str, Any]:
    """A whole record. All but `seconds` is the same whenever the same run computes it.

    Args:
        about: the prompt's part.
        measured: what `examine` yields.
        score: 0 to 1, or what the task's metric gives.
        score_seconds: what scoring took.
        run: model, arguments and versions.
    """
    seconds = {**measured["seconds"], "score": score_seconds}
    body = {**about, **measured, "score": score, "seconds": seconds}
    last = {"seconds": body.pop("seconds"), "run": dict(run)}
    return {"schema": SCHEMA, **body, **last}


def read_finished(path: Path | str) -> Finished:
    """All finished records of a file or of a results folder.

    Raises:
        ResultsError: a broken line or a record of another version, named with file and line number; or no such file.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    found: dict[RecordKey, dict[str, Any]] = {}
    lines = read_lines(file)
    for number, record in lines.objects:
        check(record, f"{file}, line {number}")
        found.setdefault(RecordKey.of(record), record)
    return Finished(found, len(lines.objects) - len(found), lines.is_torn)


def read_records(path: Path | str) -> list[dict[str, Any]]:
    """The records alone, as `read_finished` finds them."""
    return list(read_finished(path).records.values())
