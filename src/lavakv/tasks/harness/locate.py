"""Where the harness describes a task, and where local slices of it lie."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from lavakv.errors import TaskError
from lavakv.tasks.extras import folder_of
from lavakv.tasks.infinitebench.table import ROWS as INFINITEBENCH

# A top-level key `task`. Parsing all of the harness's YAML files, as it does itself, takes ten seconds; this one.
_NAME = re.compile(rb"""^["']?task["']?[ \t]*:[ \t]*["']?([^\s"'#\[]+)["']?[ \t]*\r?$""", re.MULTILINE)


def description_of(name: str) -> str | None:
    """The file, below the harness's folder of tasks, that describes a task; None if there is no such task.

    Raises:
        MissingExtraError: no harness.
    """
    return harness_index().get(name.removeprefix("ruler_") if name.startswith("ruler_niah") else name)


@cache
def harness_index() -> dict[str, str]:
    """Every task of the harness and its description's file, below the harness's folder of tasks.

    Raises:
        MissingExtraError: no harness.
    """
    root, index = folder_of("lm_eval") / "tasks", dict[str, str]()
    for path in sorted(root.rglob("*.yaml")):
        if found := _NAME.search(path.read_bytes()):
            index.setdefault(found.group(1).decode(), path.relative_to(root).as_posix())
    return index


def local_file(name: str, split: str, data_dir: Path) -> Path:
    """The slice of a task: LongBench's and InfiniteBench's own layout, `harness/<task>/<split>.jsonl` for others.

    Raises:
        TaskError: there is none.
    """
    short = name.partition("_")[2]
    path = data_dir / "harness" / name / f"{split}.jsonl"
    if name.startswith("longbench_"):
        path = data_dir / ("longbench_e" if name.endswith("_e") else "longbench") / f"{short}.jsonl"
    elif name.startswith("infinitebench_"):
        path = data_dir / "infinitebench" / f"{INFINITEBENCH[short].official}.jsonl"
    if not path.is_file():
        fix = "Put it there, or leave --data-dir out to load it from the hub."
        raise TaskError(str(path), expected=f"the {split} part of {name}", got="no file", fix=fix)
    return path
