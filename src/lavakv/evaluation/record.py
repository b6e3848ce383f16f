"""A record of an evaluation: the answer to one prompt by one policy and budget, as a type and as it is checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import NoneType
from typing import Any, NamedTuple, TypedDict, cast, get_args, get_origin, get_type_hints, is_typeddict

from lavakv.errors import ResultsError

SCHEMA = 1


class PromptPart(TypedDict):
    """Task, example and prompt: the same for all policies and budgets. Lengths in tokens, `depth` in percent."""

    task: str
    task_version: str
    benchmark: str
    task_group: str
    metric: str
    example: str
    group: str
    length: int | None
    depth: float | None
    prompt_hash: str
    prompt_tokens: int
    truncated: bool
    mode: str
    answers: list[str]
    classes: list[str]
    prompt_head: str
    prompt_tail: str


class _Details(TypedDict, total=False):
    """Fields that a record may lack.

    `shares_prefill`: the prompt is the beginning of the other mode's, and was not read again. `kl_nats`,
    `top1_agreement`: distance from the full cache's next-token distributions over its own greedy continuation.
    """

    tokens_per_head: float | None
    kept_entries: int
    layer_entries: list[int]
    estimated_loss: float
    batch_rows: int
    batch_steps: int
    shares_prefill: bool
    kl_nats: float
    top1_agreement: float


class OutcomePart(_Details):
    """Policy and budget, what they keep of the prompt, and the answer. Entries are pairs of a key and a value."""

    policy: str
    budget: str
    window: int
    kept_fraction: float
    head_entries: list[list[int]] | None
    kv_bytes: int
    full_kv_bytes: int
    prediction: str
    new_tokens: int


class Seconds(TypedDict, total=False):
    """What a record took; `prefill` was paid once for all records of a prompt, `replay` once for all that need one.

    `kl` is comparing distributions.
    """

    prefill: float
    replay: float
    fill: float
    decode: float
    kl: float
    score: float


class Provenance(TypedDict, total=False):
    """Model, settings and versions behind a record. `passed` names the settings that the user gave."""

    model: str
    dtype: str
    device: str
    arguments: dict[str, Any]
    passed: list[str]
    versions: dict[str, str | None]
    revision: str | None


class Record(PromptPart, OutcomePart):
    """A whole record. `score` is 0 to 1, or what the task's metric gives; None where it gives nothing."""

    schema: int
    score: float | None
    seconds: Seconds
    run: Provenance


class Measurement(NamedTuple):
    """What is measured of one variant, before it is scored."""

    outcome: OutcomePart
    seconds: Seconds


def new_record(about: PromptPart, measured: Measurement, score: float, score_seconds: float, run: Provenance) -> Record:
    """A whole record. All but `seconds` is the same whenever the same run computes it.

    Args:
        about: the prompt's part.
        measured: what `examine` yields.
        score: 0 to 1, or what the task's metric gives.
        score_seconds: what scoring took.
        run: where it comes from.
    """
    seconds: Seconds = {**measured.seconds, "score": score_seconds}
    return {"schema": SCHEMA, **about, **measured.outcome, "score": score, "seconds": seconds, "run": run}


def check_record(record: Mapping[str, Any], place: str) -> Record:
    """A record as parsed, checked against `Record`. Further fields are left alone.

    Args:
        record: as parsed.
        place: its file and line number, for the error.

    Raises:
        ResultsError: another version's record, a field that is missing or that holds a value it cannot.
    """
    if record.get("schema") != SCHEMA:
        raise ResultsError(
            place, expected=f"a record of schema {SCHEMA}", got=f"schema {record.get('schema')!r}",
            fix="Read it with the lavakv version that wrote it, or evaluate again into another folder.",
        )  # fmt: skip
    missing = sorted(Record.__required_keys__ - record.keys())
    if missing:
        raise _broken(place, "a whole record", f"one without {', '.join(missing)}")
    for name, hint in _HINTS.items():
        if name in record and not _fits(record[name], hint):
            raise _broken(place, f"{name} to be {_described(hint)}", repr(record[name])[:60])
    if not 0 <= record["kept_fraction"] <= 1:
        raise _broken(place, "kept_fraction between 0 and 1", repr(record["kept_fraction"]))
    if record["score"] is not None and not math.isfinite(record["score"]):
        raise _broken(place, "a finite score", repr(record["score"]))
    return cast("Record", record)


_HINTS = get_type_hints(Record)
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}


def _fits(value: object, hint: Any) -> bool:
    """True if a JSON value is of a field's type; booleans are not numbers."""
    if is_typeddict(hint):
        fields = get_type_hints(hint)
        return isinstance(value, dict) and all(
            _fits(value[name], fields[name]) for name in fields.keys() & value.keys()
        )
    if hint is Any:
        return True
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(item, get_args(hint)[0]) for item in value)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(_fits(item, get_args(hint)[1]) for item in value.values())
    if get_args(hint):
        return any(_fits(value, each) for each in get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint


def _described(hint: Any) -> str:
    """A field's type in words."""
    if is_typeddict(hint) or get_origin(hint) is dict:
        return "an object"
    if get_origin(hint) is list:
        return f"a list, each item {_described(get_args(hint)[0])}"
    if get_args(hint):
        return " or ".join(map(_described, get_args(hint)))
    return _NAMES[hint]


def _broken(place: str, expected: str, got: str) -> ResultsError:
    return ResultsError(
        place, expected=expected, got=got, fix="Remove the line; the same evaluation computes its record again."
    )
