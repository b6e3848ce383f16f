"""Real records, where the session has them: all can be read, and the right answers score in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavakv.tasks import TaskSettings, get_task, task_names
from lavakv.tasks.infinitebench.table import ROWS

NAMES = [name for name in task_names() if name.startswith(("longbench_", "infinitebench_"))]
PERFECT = {"ROUGE-L": 0.999999995, "ROUGE-L (Chinese words)": 0.999999995}
LENGTHS = {
    "longbench_multifieldqa_zh": 120,
    "longbench_lcc": 19,
    "longbench_qasper_e": 14,
    "infinitebench_math_calc": 4,
}


def file_of(name: str, folder: Path) -> Path:
    benchmark, _, short = name.partition("_")
    if benchmark == "infinitebench":
        return folder / benchmark / f"{ROWS[short].official}.jsonl"
    return folder / ("longbench_e" if name.endswith("_e") else benchmark) / f"{short}.jsonl"


@pytest.mark.parametrize("name", NAMES)
def test_right_answers_score(name: str, slices: Path) -> None:
    if not file_of(name, slices).is_file():
        pytest.skip(f"{name} is not among the slices")
    task, seen = get_task(name), set()
    examples = list(task.examples(TaskSettings(data_dir=slices, limit=4 if "ROUGE" in task.metric else None)))
    for example in examples:
        right = " ".join(example.answers) if name == "infinitebench_math_calc" else example.answers[0]
        best = PERFECT.get(task.metric, 1)
        if task.metric == "Edit similarity" and any(mark in right for mark in ("`", "#", "//")):
            best = 0  # LongBench passes over every such line, and so over these right ones
        assert task.score(example.answers, example.classes, right) == best
        assert example.context.strip()
        assert example.question.strip()
        seen.add(example.name)
    assert len(seen) == len(examples) >= 1
    assert len(examples) == LENGTHS.get(name, len(examples))
