"""From the options of `lavakv eval` and a preset to settings."""

from __future__ import annotations

from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lavakv.cli.lists import fractions, names, numbers, whole_numbers
from lavakv.cli.options import is_given
from lavakv.cli.variants import parse_policies
from lavakv.errors import InputError

if TYPE_CHECKING:
    from lavakv.evaluation.settings import EvalSettings

_DEFAULT_BUDGETS = (128, 256)


def chosen_settings(context: typer.Context, preset: str | None) -> tuple[EvalSettings, list[str]]:
    """Settings, and the names of those that the user gave. What is given overrides the preset.

    Args:
        context: the options' values, and which of them were given.
        preset: name of a preset, or None.

    Raises:
        InputError: an unknown preset, no task, or a value that cannot be.
    """
    from lavakv.evaluation.presets import get_preset
    from lavakv.evaluation.settings import EvalSettings

    values = {field.name: _parsed(field.name, context.params[field.name]) for field in fields(EvalSettings)}
    passed = [name for name in values if is_given(context, name)]
    if preset is not None:
        named = dict(get_preset(preset).settings)
        if {"budgets", "keep"} & set(passed):
            named.pop("budgets", None)
        values |= {name: value for name, value in named.items() if name not in passed}
    if not values["budgets"] and not values["keep"]:
        values["budgets"] = _DEFAULT_BUDGETS
    if not values["tasks"]:
        raise InputError(
            "--tasks", expected="at least one", got="none", fix="--list-tasks shows them; or give a --preset."
        )
    values["tasks"] = expanded(values["tasks"])
    return EvalSettings(**values), passed


def _parsed(name: str, value: Any) -> Any:
    """An option's value as settings take it."""
    option = f"--{name}"
    if name == "policies":
        return tuple(parse_policies(value))
    if name == "tasks":
        return tuple(names(option, value)) if value is not None else ()
    if name in ("budgets", "lengths"):
        return tuple(whole_numbers(option, value))
    if name == "keep":
        return tuple(fractions(option, value))
    if name == "mode":
        return _mode(value)
    if name == "depths":
        return tuple(numbers(option, value))
    return str(value) if isinstance(value, Path) else value


def _mode(value: str) -> str:
    """One mode, or "both" for a list of the two."""
    from lavakv.evaluation.settings import BOTH_MODES, MODES

    given = names("--mode", value)
    return BOTH_MODES if set(given) == set(MODES) else value


def expanded(tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Task names, with each pattern replaced by the tasks that it matches.

    Raises:
        InputError: a pattern that matches none.
    """
    from lavakv.tasks import task_names

    found: dict[str, None] = {}
    for name in tasks:
        matching = [known for known in task_names() if fnmatchcase(known, name)] if "*" in name else [name]
        if not matching:
            raise InputError("--tasks", expected="a pattern of known tasks", got=name, fix="--list-tasks shows them.")
        found.update(dict.fromkeys(matching))
    return tuple(found)
