"""Tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache

from lavakv.errors import MissingExtraError, TaskError
from lavakv.tasks.harness.descriptions import harness_index
from lavakv.tasks.harness.task import PREFIX, harness_task
from lavakv.tasks.infinitebench.task import infinitebench_tasks
from lavakv.tasks.longbench.task import longbench_tasks
from lavakv.tasks.needle.task import needle_tasks
from lavakv.tasks.ruler.task import ruler_tasks
from lavakv.tasks.settings import Protocol
from lavakv.tasks.task import Task


@cache
def _built_in() -> dict[str, Task]:
    return {**longbench_tasks(), **infinitebench_tasks(), **ruler_tasks(), **needle_tasks()}


def task_names() -> Mapping[str, str]:
    """Tasks with official prompts and scores: name to one line. `get_task` also finds the harness's own."""
    return {name: f"{task.benchmark}, {task.group}; {task.metric}" for name, task in _built_in().items()}


@cache
def get_task(name: str, protocol: Protocol = "paper") -> Task:
    """The task of that name.

    Args:
        name: one of `task_names()`, any task of the harness that generates text, or either after `harness:`.
        protocol: `harness` takes the harness's own prompts and scores for every task; such a task's name starts with
            `harness:`, so that records tell how they were scored.

    Raises:
        TaskError: there is no such task; the message suggests similar names.
    """
    built_in = _built_in()
    if protocol == "harness" and not name.startswith(PREFIX):
        name = PREFIX + name
    if name in built_in:
        return built_in[name]
    try:
        return harness_task(name) or _unknown(name, [*built_in, *harness_index()])
    except MissingExtraError:
        if name.removeprefix(PREFIX) in built_in:
            raise
        return _unknown(name, list(built_in))


def _unknown(name: str, known: list[str]) -> Task:
    bare = name.removeprefix(PREFIX)
    close = [each for each in get_close_matches(bare, dict.fromkeys(known), n=3, cutoff=0.5) if each != bare]
    got = f"{name!r}, which does not generate text" if bare in known else repr(name)
    fix = f"Did you mean {', '.join(close)}?" if close else "`lavakv.tasks.task_names()` lists them."
    raise TaskError("task", expected="a known task that generates text", got=got, fix=fix)
