"""The installed harness's own files, read without building its task list, running its code or loading data."""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

from lavakv.errors import MissingExtraError, TaskError
from lavakv.tasks.extras import import_extra, package_folder

# A top-level key `task`. The harness parses all of its YAML files, which takes ten seconds; this takes half a second.
_NAME = re.compile(rb"""^["']?task["']?[ \t]*:[ \t]*["']?([^\s"'#\[]+)["']?[ \t]*\r?$""", re.MULTILINE)


def description_of(name: str) -> str | None:
    """The file, below the harness's folder of tasks, that describes a task; None if there is no such task.

    Raises:
        MissingExtraError: the harness is not installed.
    """
    return harness_index().get(name.removeprefix("ruler_") if name.startswith("ruler_niah") else name)


@cache
def harness_index() -> dict[str, str]:
    """Every task of the harness and its description's file, below the harness's folder of tasks.

    Raises:
        MissingExtraError: the harness is not installed.
    """
    root, index = package_folder("lm_eval") / "tasks", dict[str, str]()
    for parts in sorted(_descriptions(str(root))):
        with open(os.path.join(root, *parts), "rb", buffering=0) as file:
            found = _NAME.search(file.read())
        if found:
            index.setdefault(found.group(1).decode(), "/".join(parts))
    return index


def _descriptions(root: str) -> Iterator[tuple[str, ...]]:
    """YAML files below a folder, as path components: there are thousands, and `Path` objects would double the time."""
    for folder, _, files in os.walk(root):
        below = tuple(folder[len(root) :].split(os.sep)[1:])
        yield from ((*below, file) for file in files if file.endswith(".yaml"))


@cache
def task_config(file: str, *, functions: bool = False) -> dict[str, Any]:
    """The harness's description of a task.

    Args:
        file: below the harness's folder of tasks, `longbench/qasper.yaml`.
        functions: import what the description names with `!function`; else its name as a string.

    Raises:
        MissingExtraError: the harness, or a package that its functions need, is not installed.
        TaskError: this version of the harness has no such file.
    """
    path = package_folder("lm_eval") / "tasks" / file
    if not path.is_file():
        raise TaskError(
            f"lm_eval/tasks/{file}", expected="a file of the harness", got="none", fix="Install lm-eval 0.4.13."
        )
    loader = import_extra("lm_eval.tasks._yaml_loader")  # building the harness's task list takes seconds
    try:
        with warnings.catch_warnings():  # fuzzywuzzy recommends a package whose ratios are not the official ones
            warnings.simplefilter("ignore", UserWarning)
            config: dict[str, Any] = loader.load_yaml(path, resolve_func=functions)
    except ImportError as error:
        raise MissingExtraError(
            file, expected="the packages that this task needs", got=str(error), fix="Run: pip install 'lavakv[eval]'."
        ) from error
    return config


def constant(file: str, name: str) -> Any:
    """The literal that a Python file of the harness assigns to a name. It is not run: RULER's would download data.

    Args:
        file: below the harness's folder of tasks, `ruler/vt_utils.py`.
        name: a variable; the last literal assigned to it counts.

    Raises:
        MissingExtraError: the harness is not installed.
        TaskError: an unsupported version of the harness, without that file or name.
    """
    literals = _literals(file)
    if name not in literals:
        raise TaskError(f"lm_eval/tasks/{file}", expected=name, got="no such name", fix="Install lm-eval 0.4.13.")
    return literals[name]


@cache
def _literals(file: str) -> dict[str, Any]:
    path = package_folder("lm_eval") / "tasks" / file
    if not path.is_file():
        raise TaskError(str(file), expected="a file of the harness", got="none", fix="Install lm-eval 0.4.13.")
    found: dict[str, Any] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:  # computed, not a literal
                continue
    return found
