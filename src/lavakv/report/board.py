"""Scores as tables of numbers: contenders by examples, one a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lavakv.evaluation.bootstrap import Scores
from lavakv.report.contender import Contender, Field
from lavakv.report.run import example_key


@dataclass(frozen=True, slots=True)
class TaskBoard:
    """One task's scores.

    Attributes:
        task: name.
        benchmark: name, "LongBench".
        group: of tasks, "Single-document QA".
        metric: name, "F1".
        examples: key of each, see `example_key`.
        scores: `[contenders, examples]`, 0 to 100, NaN where there is none.
    """

    task: str
    benchmark: str
    group: str
    metric: str
    examples: tuple[tuple[Any, ...], ...]
    scores: Scores

    @property
    def counts(self) -> list[int]:
        """Scored examples of each contender."""
        return [int(count) for count in np.isfinite(self.scores).sum(axis=1)]

    @property
    def short(self) -> str:
        """The name without its benchmark in front."""
        lead = f"{self.benchmark.lower().replace('-', '_')}_"
        return self.task.removeprefix(lead).removeprefix("longbench_") or self.task

    def part(self, chosen: Sequence[int]) -> TaskBoard:
        """Some examples only."""
        examples = tuple(self.examples[index] for index in chosen)
        return TaskBoard(self.task, self.benchmark, self.group, self.metric, examples, self.scores[:, chosen])


def boards_of(records: Sequence[Mapping[str, Any]], field: Field) -> list[TaskBoard]:
    """One board a task; benchmarks, groups and tasks in the order in which they first come."""
    rows = {contender: row for row, contender in enumerate(field.contenders)}
    by_task: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_task.setdefault(record["task"], []).append(record)
    boards = []
    for task, own in by_task.items():
        columns: dict[tuple[Any, ...], int] = {}
        for record in own:
            columns.setdefault(example_key(record), len(columns))
        scores = np.full((len(rows), len(columns)), np.nan)
        for record in own:
            if record["score"] is not None:
                scores[rows[Contender.of(record)], columns[example_key(record)]] = 100 * record["score"]
        first = own[0]
        boards.append(TaskBoard(task, first["benchmark"], first["task_group"], first["metric"], tuple(columns), scores))
    return _gathered(boards)


def _gathered(boards: list[TaskBoard]) -> list[TaskBoard]:
    """Tasks of a benchmark and of a group beside each other."""
    benchmarks = list(dict.fromkeys(board.benchmark for board in boards))
    groups = list(dict.fromkeys((board.benchmark, board.group) for board in boards))
    return sorted(boards, key=lambda b: (benchmarks.index(b.benchmark), groups.index((b.benchmark, b.group))))
