"""Reading a file of records: one JSON object for each prompt, policy and budget.

Runs and reports follow one rule: what follows the last line feed was never finished, and of two finished records of
one key the first counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lavakv.evaluation.jsonl import read_lines
from lavakv.evaluation.record import Record, check_record
from lavakv.evaluation.record_keys import RecordKey

FILE = "records.jsonl"


class Finished(NamedTuple):
    """What a file of records holds.

    Attributes:
        records: by key, in file order.
        num_repeated: records whose key came before; they are left out.
        is_torn: the file does not end in a line feed, as after a kill or during a run; that line is left out.
    """

    records: dict[RecordKey, Record]
    num_repeated: int
    is_torn: bool


def read_finished(path: Path | str) -> Finished:
    """All finished records of a file or of a results folder.

    Raises:
        ResultsError: a broken line or a record of another version, named with file and line number; or no such file.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    found: dict[RecordKey, Record] = {}
    lines = read_lines(file)
    for number, record in lines.objects:
        checked = check_record(record, f"{file}, line {number}")
        found.setdefault(RecordKey.of(checked), checked)
    return Finished(found, len(lines.objects) - len(found), lines.is_torn)


def read_records(path: Path | str) -> list[Record]:
    """The records alone, as `read_finished` finds them."""
    return list(read_finished(path).records.values())
