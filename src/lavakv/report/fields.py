"""One line of a run's records, checked before anything is computed from it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from lavakv.errors import InputError

SCHEMA = 1
_NUMBER, _OPTIONAL = (int, float), type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "task": (str,), "benchmark": (str,), "task_group": (str,), "metric": (str,), "example": (str,), "group": (str,),
    "length": (int, _OPTIONAL), "depth": (*_NUMBER, _OPTIONAL), "prompt_tokens": (int,), "truncated": (bool,),
    "policy": (str,), "budget": (str,), "mode": (str,), "window": (int,), "kept_fraction": _NUMBER,
    "head_entries": (list, _OPTIONAL), "prediction": (str,), "answers": (list,), "prompt_head": (str,),
    "prompt_tail": (str,), "score": (*_NUMBER, _OPTIONAL), "new_tokens": (int,), "kv_bytes": (int,),
    "full_kv_bytes": (int,), "seconds": (dict,), "run": (dict,),
}  # fmt: skip


def checked(line: str, place: str) -> dict[str, Any]:
    """Parse a record; head entries become an int32 array `[layers, heads]`.

    Args:
        line: one line of JSON.
        place: its file and number, for complaints.

    Raises:
        InputError: no JSON object, another version's record, a field that is missing or of the wrong kind.
    """
    try:
        record = json.loads(line)
    except ValueError as error:
        raise _broken(place, "a JSON object", str(error)) from None
    if not isinstance(record, dict):
        raise _broken(place, "a JSON object", type(record).__name__)
    if record.get("schema") != SCHEMA:
        raise InputError(
            place,
            expected=f"schema {SCHEMA}",
            got=repr(record.get("schema")),
            fix="Another version wrote it: report with that one, or run `lavakv eval` into a new folder.",
        )
    for name, kinds in _KINDS.items():
        if name not in record:
            raise _broken(place, f"a field {name}", "none")
        if not isinstance(record[name], kinds):
            raise _broken(place, f"{name} of another type", repr(record[name])[:60])
    if not 0 <= record["kept_fraction"] <= 1:
        raise _broken(place, "kept_fraction between 0 and 1", repr(record["kept_fraction"]))
    if record["score"] is not None and not math.isfinite(record["score"]):
        raise _broken(place, "a finite score", repr(record["score"]))
    record["head_entries"] = _entries(record["head_entries"], place)
    return record


def _entries(rows: Any, place: str) -> Any:
    if not rows:
        return None
    try:
        width = max(len(row) for row in rows)
        return np.array([[*row, *[0] * (width - len(row))] for row in rows], dtype=np.int32)
    except (TypeError, ValueError, OverflowError):
        raise _broken(place, "head_entries as a list of whole numbers a layer", repr(rows)[:60]) from None


def _broken(place: str, expected: str, got: str) -> InputError:
    return InputError(place, expected=expected, got=got, fix="Delete the line; `lavakv eval` computes it anew.")
