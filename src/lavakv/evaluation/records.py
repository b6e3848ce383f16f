"""Records of an evaluation: one JSON object for each prompt, policy and budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lavakv.errors import ResultsError
from lavakv.evaluation.jsonl import read_lines
from lavakv.evaluation.prompt import PromptKey

SCHEMA = 1
FILE = "records.jsonl"
_FIRST = ("schema", "task", "task_version", "benchmark", "task_group", "metric", "example", "group", "length", "depth")
_NEEDED = frozenset(
    {*_FIRST, "prompt_hash", "prompt_tokens", "policy", "budget", "prediction", "answers", "classes", "score"}
    | {"kept_fraction", "kv_bytes", "full_kv_bytes", "new_tokens", "seconds", "run"}
)


class RecordKey(NamedTuple):
    """What tells one record of a run from all others."""

    prompt: PromptKey
    policy: str
    budget: str

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> RecordKey:
        """The key of a record."""
        return cls(PromptKey.of(record), record["policy"], record["budget"])


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


def read_records(path: Path | str) -> list[dict[str, Any]]:
    """All finished records of a file or of a results folder.

    Raises:
        ResultsError: a broken line or a record of another version, named with file and line number; or no such file.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    records = []
    for number, record in enumerate(read_lines(file), start=1):
        _check(f"{file}, line {number}", record)
        records.append(record)
    return records


def _check(where: str, record: Mapping[str, Any]) -> None:
    if record.get("schema") != SCHEMA:
        raise ResultsError(
            where, expected=f"a record of schema {SCHEMA}", got=f"schema {record.get('schema')!r}",
            fix="Read it with the lavakv version that wrote it, or evaluate anew into another folder.",
        )  # fmt: skip
    missing = sorted(_NEEDED - record.keys())
    if missing:
        raise ResultsError(
            where, expected="a whole record", got=f"one without {', '.join(missing)}",
            fix="Remove the line; the same evaluation computes it anew.",
        )  # fmt: skip


def by_key(records: Iterable[dict[str, Any]]) -> dict[RecordKey, dict[str, Any]]:
    """Records by their keys; of two with one key the first."""
    found: dict[RecordKey, dict[str, Any]] = {}
    for record in records:
        found.setdefault(RecordKey.of(record), record)
    return found
