"""The run behind the numbers: model, settings, versions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from lavakv.report.analysis import Analysis
from lavakv.report.run import ExampleKey, example_key


class About(NamedTuple):
    """Facts about a run.

    Attributes:
        model: name; of a path, its last component.
        facts: label and value, to show at the top.
        arguments: name, value, and whether the user passed it.
        versions: package and version.
        tasks: of each, in order: name, metric, prompts, minimum and maximum prompt tokens, truncated prompts.
    """

    model: str
    facts: list[tuple[str, str]]
    arguments: list[tuple[str, str, bool]]
    versions: list[tuple[str, str]]
    tasks: list[tuple[str, str, int, int, int, int]]


def about(analysis: Analysis) -> About:
    """Facts about the run, from its records."""
    about_run = analysis.run.about
    arguments, passed, versions = about_run.get("arguments"), about_run.get("passed"), about_run.get("versions")
    given = {str(name) for name in passed} if isinstance(passed, list) else set()
    facts = [
        ("mode", ", ".join(analysis.configurations.modes)),
        ("window", ", ".join(str(window) for window in sorted({record["window"] for record in analysis.run.records}))),
        ("dtype", str(about_run.get("dtype", "unknown"))),
        ("device", str(about_run.get("device", "unknown"))),
    ]
    if about_run.get("revision"):
        facts.append(("revision", str(about_run["revision"])[:12]))
    return About(
        model_name(str(about_run.get("model") or "unknown model")),
        facts,
        [(str(name), _as_text(value), str(name) in given) for name, value in _items(arguments)],
        [(str(name), str(value)) for name, value in _items(versions)],
        _tasks(analysis),
    )


def model_name(model: str) -> str:
    """The last component of a path; any other name unchanged."""
    is_path = model.startswith(("/", ".", "~")) or "\\" in model or model.count("/") > 1
    return re.split(r"[/\\]", model.rstrip("/\\"))[-1] if is_path else model


def _tasks(analysis: Analysis) -> list[tuple[str, str, int, int, int, int]]:
    tokens: dict[str, list[int]] = {}
    truncated: dict[str, set[ExampleKey]] = {}
    for record in analysis.run.records:
        tokens.setdefault(record["task"], []).append(record["prompt_tokens"])
        if record["truncated"]:
            truncated.setdefault(record["task"], set()).add(example_key(record))
    return [
        (
            board.task, board.metric, len(board.examples),
            min(tokens[board.task]), max(tokens[board.task]), len(truncated.get(board.task, ())),
        )
        for board in analysis.boards
    ]  # fmt: skip


def _items(mapping: Any) -> list[tuple[Any, Any]]:
    return list(mapping.items()) if isinstance(mapping, Mapping) else []


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_as_text(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
