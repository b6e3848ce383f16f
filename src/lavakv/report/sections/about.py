"""Where the numbers come from: model, settings, versions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from lavakv.report.analysis import Analysis


class About(NamedTuple):
    """Facts about a run.

    Attributes:
        model: as it was named; of a path, the last part.
        facts: label and value, to show at the top.
        arguments: name, value, and whether the user gave it.
        versions: package and version.
        tasks: task, its metric, prompts, fewest and most prompt tokens, prompts cut in the middle.
    """

    model: str
    facts: list[tuple[str, str]]
    arguments: list[tuple[str, str, bool]]
    versions: list[tuple[str, str]]
    tasks: list[tuple[str, str, int, int, int, int]]


def about(analysis: Analysis) -> About:
    """Facts from the records themselves."""
    told = analysis.run.about
    arguments, passed, versions = told.get("arguments"), told.get("passed"), told.get("versions")
    given = {str(name) for name in passed} if isinstance(passed, list) else set()
    facts = [
        ("mode", ", ".join(analysis.field.modes)),
        ("window", ", ".join(str(window) for window in sorted({r["window"] for r in analysis.run.records}))),
        ("dtype", str(told.get("dtype", "unknown"))),
        ("device", str(told.get("device", "unknown"))),
    ]
    if told.get("revision"):
        facts.append(("revision", str(told["revision"])[:12]))
    return About(
        model_name(str(told.get("model") or "unknown model")),
        facts,
        [(str(name), _written(value), str(name) in given) for name, value in _items(arguments)],
        [(str(name), str(value)) for name, value in _items(versions)],
        _tasks(analysis),
    )


def model_name(model: str) -> str:
    """A path's last part; any other name as it is."""
    is_path = model.startswith(("/", ".", "~")) or "\\" in model or model.count("/") > 1
    return re.split(r"[/\\]", model.rstrip("/\\"))[-1] if is_path else model


def _tasks(analysis: Analysis) -> list[tuple[str, str, int, int, int, int]]:
    tokens: dict[str, list[int]] = {}
    cut: dict[str, set[Any]] = {}
    for record in analysis.run.records:
        tokens.setdefault(record["task"], []).append(record["prompt_tokens"])
        if record["truncated"]:
            cut.setdefault(record["task"], set()).add((record["example"], record["length"], record["depth"]))
    return [
        (
            board.task, board.metric, len(board.examples),
            min(tokens[board.task]), max(tokens[board.task]), len(cut.get(board.task, ())),
        )
        for board in analysis.boards
    ]  # fmt: skip


def _items(mapping: Any) -> list[tuple[Any, Any]]:
    return list(mapping.items()) if isinstance(mapping, Mapping) else []


def _written(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_written(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
