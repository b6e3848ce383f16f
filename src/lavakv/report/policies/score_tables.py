"""Scores of earlier runs as a table for each model, so that a page can be drawn, and added to, without their records.

A table is `<model>.csv`, a row for each prompt, mode and policy with score, agreement and divergence for each budget,
and `<model>.json` beside it with what the rows have in common. Neither holds a text of a prompt or an answer.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from lavakv.errors import ResultsError
from lavakv.evaluation.policy_costs import PolicyCost, checked_cost
from lavakv.evaluation.record import Record
from lavakv.files import write_output
from lavakv.report.policies.agreement import agreement_of
from lavakv.report.run import Run
from lavakv.report.sections.about import model_name

SCHEMA = 1
_PROMPT = ("task", "example", "group", "length", "depth", "mode")
_ROW = (*_PROMPT, "policy", "run")
_TASK = ("task_version", "benchmark", "task_group", "metric")
_LOCAL = ("model", "data_dir", "haystack")  # arguments that may name a folder of this machine
_FULL_BYTES = 10**9
_NO_SCORE = "none"
_Key = tuple[Any, ...]  # values of _ROW


class ScoreTable(NamedTuple):
    """What a table holds.

    Attributes:
        run: its scores as records that lack texts, entries and times.
        costs: what each policy costs alone.
    """

    run: Run
    costs: list[PolicyCost]


def read_tables(folder: Path) -> Iterator[ScoreTable]:
    """The tables of a folder, sorted by the model's name; none if there is no such folder.

    Raises:
        ResultsError: a table that cannot be read, named with its file and line.
    """
    for about in sorted(folder.glob("*.json")):
        try:
            shared = json.loads(about.read_text(encoding="utf-8"))
            if shared["schema"] != SCHEMA:
                raise _broken(str(about), f"schema {shared['schema']!r}")
            text = about.with_suffix(".csv").read_text(encoding="utf-8")
            if hashlib.sha256(text.encode()).hexdigest() != shared["sha256"]:
                raise _broken(str(about), "one whose .csv was written or changed by other hands")
            records = list(_records(shared, text, str(about.with_suffix(".csv"))))
            costs = [checked_cost(cost, str(about)) for cost in shared["costs"]]
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, csv.Error) as error:
            raise _broken(str(about), f"{type(error).__name__}: {error}") from error
        yield ScoreTable(Run(shared["model"], records, {"policies": shared["policies"]}, 0, False), costs)


def write_tables(folder: Path, name: str, run: Run, costs: Sequence[PolicyCost]) -> list[Path]:
    """Write one model's table, in place of the one there was; returns its files.

    Args:
        folder: of the tables; made if it is missing.
        name: the model's.
        run: all its records; those of the table that was there among them, where they are to stay.
        costs: what each policy costs alone.

    Raises:
        InputError: it cannot be written.
        DiskError: the disk is full or broken.
    """
    runs, rows = _rows(run.records)
    shared = _shared(name, run, runs, costs)
    stem = re.sub(r"[^\w.-]+", "--", name)  # hub ids have a slash
    text = _csv(rows, list(shared["bytes"]), shared["policies"])
    shared["sha256"] = hashlib.sha256(text.encode()).hexdigest()  # neither file may be another writing's
    contents = {
        f"{stem}.csv": text,
        f"{stem}.json": json.dumps(shared, indent=1, ensure_ascii=False) + "\n",
    }
    for file, content in contents.items():
        write_output("--scores", folder / file, content.encode(), make_folder=True)
    return [folder / file for file in contents]


def _rows(records: Sequence[Record]) -> tuple[list[dict[str, Any]], dict[_Key, dict[str, str]]]:
    """The runs that records come from, and cells by what names a row."""
    runs: list[dict[str, Any]] = []
    rows: dict[_Key, dict[str, str]] = {}
    for record in records:
        about = _shareable(record["run"])
        if about not in runs:
            runs.append(about)
        fields: Any = record
        key = (*(fields[field] for field in _PROMPT), record["policy"], runs.index(about))
        rows.setdefault(key, {}).update(_cells(record))
    return runs, rows


def _csv(rows: Mapping[_Key, dict[str, str]], budgets: Sequence[str], policies: Sequence[str]) -> str:
    """The table's text: by prompt, the full cache first, then policies in their order."""
    order = {policy: index for index, policy in enumerate(policies)}
    columns = [*_ROW, *(f"{kind} {budget}" for budget in budgets for kind in ("score", "same", "kl"))]
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    table.writeheader()
    for key in sorted(rows, key=lambda key: (*map(str, key[:-2]), order.get(key[-2], -1), key[-1])):
        table.writerow({**dict(zip(_ROW, key, strict=True)), **rows[key]})
    return text.getvalue()


def _cells(record: Record) -> dict[str, str]:
    score, budget = record["score"], record["budget"]
    found = {f"score {budget}": _NO_SCORE if score is None else f"{score:.6g}"}
    if "kl_nats" in record:
        found[f"kl {budget}"] = f"{record['kl_nats']:.6g}"
    if (agreed := agreement_of(record)) is not None:
        found[f"same {budget}"] = f"{agreed:.6g}"
    return found


def _shared(name: str, run: Run, runs: list[dict[str, Any]], costs: Sequence[PolicyCost]) -> dict[str, Any]:
    shares: dict[str, list[float]] = {}
    prompts: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in run.records:
        share = record["kv_bytes"] / record["full_kv_bytes"] if record["full_kv_bytes"] else record["kept_fraction"]
        shares.setdefault(record["budget"], []).append(share)
        fields: Any = record
        prompt = {field: fields[field] for field in (*_PROMPT, "prompt_hash", "prompt_tokens", "truncated")}
        prompts.setdefault(tuple(fields[field] for field in _PROMPT), prompt)
    return {
        "schema": SCHEMA,
        "model": name,
        "policies": run.settings.get("policies", []),
        "bytes": {budget: round(fmean(each), 6) for budget, each in shares.items()},
        "tasks": {record["task"]: {field: record[field] for field in _TASK} for record in run.records},  # type: ignore[literal-required]
        "runs": runs,
        "costs": [cost._asdict() for cost in costs],
        "prompts": sorted(prompts.values(), key=lambda prompt: [str(prompt[field]) for field in _PROMPT]),
    }


def _shareable(about: Mapping[str, Any]) -> dict[str, Any]:
    """Where records come from, without this machine's folders."""
    arguments = {name: value for name, value in (about.get("arguments") or {}).items() if name not in _LOCAL}
    passed = [name for name in about.get("passed") or [] if name not in _LOCAL]
    return {**about, "model": model_name(str(about.get("model"))), "arguments": arguments, "passed": passed}


def _records(shared: Mapping[str, Any], text: str, file: str) -> Iterator[Record]:
    prompts = {tuple(map(_written, (prompt[field] for field in _PROMPT))): prompt for prompt in shared["prompts"]}
    for number, row in enumerate(csv.DictReader(io.StringIO(text, newline="")), start=2):
        try:
            yield from _of_row(row, prompts[tuple(row[field] for field in _PROMPT)], shared)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise _broken(f"{file}, line {number}", f"{type(error).__name__}: {error}") from error


def _of_row(row: Mapping[str, str], prompt: Mapping[str, Any], shared: Mapping[str, Any]) -> Iterator[Any]:
    common = {**prompt, **shared["tasks"][row["task"]], "policy": row["policy"], "run": shared["runs"][int(row["run"])]}
    for budget, share in shared["bytes"].items():
        score = row[f"score {budget}"]
        if not score:
            continue
        measured = {field: row.get(f"{kind} {budget}") for field, kind in (("agreement", "same"), ("kl_nats", "kl"))}
        known = {field: float(value) for field, value in measured.items() if value}
        yield {
            **common, **known, "budget": budget, "score": None if score == _NO_SCORE else float(score),
            "kept_fraction": share, "kv_bytes": round(share * _FULL_BYTES), "full_kv_bytes": _FULL_BYTES,
        }  # fmt: skip


def _written(value: Any) -> str:
    """As the table has it."""
    return "" if value is None else str(value)


def _broken(place: str, got: str) -> ResultsError:
    return ResultsError(
        place, expected="a table of scores that `lavakv report --scores` wrote", got=got[:80],
        fix="Restore it, or remove it and give the runs again.",
    )  # fmt: skip
