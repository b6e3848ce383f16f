"""Finding tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache

from lavakv.errors import TaskError
from lavakv.tasks.longbench.task import longbench_tasks
from lavakv.tasks.task import Task


@cache
def _built_in() -> dict[str, Task]:
    return {**longbench_tasks()}


def task_names() -> Mapping[str, str]:
    """Built-in tasks: name to one line."""
    return {name: f"{task.benchmark}, {task.group}; {task.metric}" for name, task in _built_in().items()}


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        TaskError: there is none; names close ones.
    """
    tasks = _built_in()
    if name in tasks:
        return tasks[name]
    close = get_close_matches(name, tasks, n=3, cutoff=0.5)
    raise TaskError(
        "task",
        expected="a known task",
        got=repr(name),
        fix=f"Did you mean {', '.join(close)}?" if close else "`lavakv eval --list-tasks` shows them.",
    )
