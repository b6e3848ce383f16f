"""Scoring records again, without a model: after a scorer was mended, say."""

from __future__ import annotations

from typing import Any

from lavakv.errors import ResultsError
from lavakv.evaluation.archive import RUN
from lavakv.evaluation.folder import RunFolder
from lavakv.evaluation.jsonl import write_json
from lavakv.evaluation.records import FILE
from lavakv.tasks import get_task


def rescore(folder: RunFolder) -> tuple[list[dict[str, Any]], int]:
    """Give every record the score that its task gives today; all of them or, if anything fails, none.

    Args:
        folder: held by this process.

    Returns:
        The records, and how many scores changed.

    Raises:
        LavaError: no records, a broken one, a task that is unknown today, or a full disk.
    """
    stored, records = folder.settings(), list(folder.records().values())
    if stored is None or not records:
        raise ResultsError(str(folder.path), expected=f"records in {FILE}", got="none", fix="Evaluate into it first.")
    changed = 0
    for record in records:
        task = get_task(record["task"])
        score = task.score(record["answers"], record["classes"], record["prediction"])
        changed += score != record["score"]
        record.update(score=score, task_version=task.version)
        stored["tasks"][record["task"]] = task.version
    folder.rewrite(records)
    write_json(folder.path / RUN, stored)
    return records, changed
