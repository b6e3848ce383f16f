"""How much of the full cache's answer a compressed cache gives: what eviction changes, whoever is right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lavakv.evaluation.record import Record
from lavakv.report.configuration import FULL
from lavakv.report.run import ExampleKey, example_key
from lavakv.tasks.metrics import overlap_f1

_FIELD = "agreement"  # of a record in memory; no run writes it
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
_WORDS = re.compile(f"[{_CJK}]|[^\\W{_CJK}]+")  # characters of scripts without spaces count as words


def agreement(answer: str, full: str) -> float:
    """F1 of the words of two answers, in lower case and without punctuation, 0 to 1; 1 where neither has any."""
    words, expected = _WORDS.findall(answer.lower()), _WORDS.findall(full.lower())
    return overlap_f1(words, expected) if words or expected else 1.0


def with_agreement(records: Sequence[Record]) -> list[Record]:
    """Records of one run, each with its answer's agreement with that of the full cache to the same prompt and mode.

    Records of prompts that the full cache did not answer stay as they are.
    """
    full: dict[tuple[ExampleKey, str], str] = {
        (example_key(record), record["mode"]): record["prediction"] for record in records if record["policy"] == FULL
    }
    found: list[Any] = []
    for record in records:
        expected = full.get((example_key(record), record["mode"]))
        found.append(record if expected is None else {**record, _FIELD: agreement(record["prediction"], expected)})
    return found


def agreement_of(record: Record) -> float | None:
    """What `with_agreement` or a table of scores noted, or None."""
    fields: Any = record
    return fields.get(_FIELD)  # type: ignore[no-any-return]
