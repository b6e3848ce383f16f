"""What a record must hold, checked before anything is computed from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lavakv.errors import ResultsError

SCHEMA = 1
_NUMBER, _OPTIONAL = (int, float), type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "task": (str,), "task_version": (str,), "benchmark": (str,), "task_group": (str,), "metric": (str,),
    "example": (str,), "group": (str,), "length": (int, _OPTIONAL), "depth": (*_NUMBER, _OPTIONAL),
    "prompt_hash": (str,), "prompt_tokens": (int,), "truncated": (bool,), "mode": (str,), "answers": (list,),
    "classes": (list,), "prompt_head": (str,), "prompt_tail": (str,), "policy": (str,), "budget": (str,),
    "window": (int,), "kept_fraction": _NUMBER, "head_entries": (list, _OPTIONAL), "kv_bytes": (int,),
    "full_kv_bytes": (int,), "prediction": (str,), "new_tokens": (int,), "score": (*_NUMBER, _OPTIONAL),
    "seconds": (dict,), "run": (dict,),
}  # fmt: skip


def check(record: Mapping[str, Any], place: str) -> None:
    """Check one record.

    Args:
        record: as parsed.
        place: its file and line number, for complaints.

    Raises:
        ResultsError: another version's record, a field that is missing or that holds what it cannot.
    """
    if record.get("schema") != SCHEMA:
        raise ResultsError(
            place, expected=f"a record of schema {SCHEMA}", got=f"schema {record.get('schema')!r}",
            fix="Read it with the lavakv version that wrote it, or evaluate anew into another folder.",
        )  # fmt: skip
    missing = sorted(_KINDS.keys() - record.keys())
    if missing:
        raise _broken(place, "a whole record", f"one without {', '.join(missing)}")
    for name, kinds in _KINDS.items():
        if not isinstance(record[name], kinds):
            raise _broken(place, f"{name} of another type", repr(record[name])[:60])
    if not 0 <= record["kept_fraction"] <= 1:
        raise _broken(place, "kept_fraction between 0 and 1", repr(record["kept_fraction"]))
    if record["score"] is not None and not math.isfinite(record["score"]):
        raise _broken(place, "a finite score", repr(record["score"]))
    if not all(
        isinstance(row, list) and all(type(count) is int for count in row) for row in record["head_entries"] or ()
    ):
        got = repr(record["head_entries"])[:60]
        raise _broken(place, "head_entries as a list of whole numbers a layer", got)


def _broken(place: str, expected: str, got: str) -> ResultsError:
    return ResultsError(place, expected=expected, got=got, fix="Remove the line; the same evaluation computes it anew.")
