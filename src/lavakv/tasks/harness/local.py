"""Local slices of the harness's tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lavakv.errors import TaskError
from lavakv.tasks.infinitebench.table import ROWS as INFINITEBENCH


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


def as_on_the_hub(record: dict[str, Any], _index: int) -> dict[str, Any]:
    """A local record in the form of the hub's copy that the harness loads."""
    if "input" in record and "answers" in record:  # LongBench
        return {**record, "question": record["input"]}
    if "input" in record and isinstance(record.get("answer"), list):  # InfiniteBench
        return {**record, "answer": [str(answer) for answer in record["answer"]]}
    return record
