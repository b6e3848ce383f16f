"""Where the harness describes a task, and where local slices of it lie."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from lavakv.errors import TaskError
from lavakv.tasks.extras import folder_of, needed
from lavakv.tasks.infinitebench.table import ROWS as INFINITEBENCH


def description_of(name: str) -> str | None:
    """The file, below the harness's folder of tasks, that describes a task; None if there is no such task.

    Raises:
        MissingExtraError: no harness.
    """
    for prefix, pattern in (
        ("longbench_", "longbench/{}.yaml"),
        ("infinitebench_", "infinitebench/infinitebench_{}.yaml"),
    ):
        file = pattern.format(name.removeprefix(prefix))
        if name.startswith(prefix) and (folder_of("lm_eval") / "tasks" / file).is_file():
            return file
    entry = _index().get(name.removeprefix("ruler_") if name.startswith("ruler_niah") else name)
    if entry is None or entry.yaml_path is None or entry.kind.name != "TASK":
        return None
    return Path(entry.yaml_path).relative_to(folder_of("lm_eval") / "tasks").as_posix()


def known_names() -> list[str]:
    """Every single task of the harness; takes seconds."""
    return [name for name, entry in _index().items() if entry.kind.name == "TASK"]


@cache
def _index() -> dict[str, Any]:
    index: dict[str, Any] = needed("lm_eval.tasks").TaskManager().task_index
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
