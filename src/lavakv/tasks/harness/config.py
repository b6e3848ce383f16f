"""A task's description in the installed harness, read without loading its data."""

from __future__ import annotations

from functools import cache
from typing import Any

from lavakv.errors import MissingExtraError, TaskError
from lavakv.tasks.extras import folder_of, needed


@cache
def task_config(file: str, *, functions: bool = False) -> dict[str, Any]:
    """The harness's description of a task.

    Args:
        file: below the harness's folder of tasks, `longbench/qasper.yaml`.
        functions: import what the description names with `!function`; else a string stands in its place.

    Raises:
        MissingExtraError: the harness, or a package that its functions need, is not installed.
        TaskError: this version of the harness has no such file.
    """
    path = folder_of("lm_eval") / "tasks" / file
    if not path.is_file():
        raise TaskError(
            f"lm_eval/tasks/{file}", expected="a file of the harness", got="none", fix="Install lm-eval 0.4.13."
        )
    loader = needed("lm_eval.tasks._yaml_loader")  # the harness's task list takes seconds to build, this does not
    try:
        config: dict[str, Any] = loader.load_yaml(path, resolve_func=functions)
    except ImportError as error:
        raise MissingExtraError(
            file, expected="the packages that this task needs", got=str(error), fix="Run: pip install 'lavakv[eval]'."
        ) from error
    return config
