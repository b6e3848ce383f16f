"""Texts inside the harness's Python files, read without running them: running RULER's downloads data."""

from __future__ import annotations

import ast
from functools import cache
from typing import Any

from lavakv.errors import TaskError
from lavakv.tasks.extras import folder_of


def constant(file: str, name: str) -> Any:
    """The literal that a file of the harness assigns to a name, anywhere in it.

    Args:
        file: below the harness's folder of tasks, `ruler/vt_utils.py`.
        name: a variable; of several literals the last one counts.

    Raises:
        MissingExtraError: no harness.
        TaskError: another harness, without that file or name.
    """
    literals = _literals(file)
    if name not in literals:
        raise TaskError(f"lm_eval/tasks/{file}", expected=name, got="nothing so called", fix="Install lm-eval 0.4.13.")
    return literals[name]


@cache
def _literals(file: str) -> dict[str, Any]:
    path = folder_of("lm_eval") / "tasks" / file
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
