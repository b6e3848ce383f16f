"""Scores as tables of numbers: configurations by examples, one table a task, and their resampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lavakv.evaluation.bootstrap import Resampled, Scores, resample
from lavakv.evaluation.record import Record
from lavakv.report.configuration import Configuration, Configurations
from lavakv.report.run import ExampleKey, example_key


@dataclass(frozen=True, slots=True)
class TaskBoard:
    """One task's scores.

    Attributes:
        task: name.
        benchmark: name, "LongBench".
        group: of tasks, "Single-document QA".
        metric: name, "F1".
        examples: key of each.
        scores: `[configurations, examples]`, 0 to 100, NaN where there is no score.
    """

    task: str
    benchmark: str
    group: str
    metric: str
    examples: tuple[ExampleKey, ...]
    scores: Scores

    @property
    def counts(self) -> list[int]:
        """Scored examples of each configuration."""
        return [int(count) for count in np.isfinite(self.scores).sum(axis=1)]

    @property
    def short(self) -> str:
        """The name without the benchmark's prefix."""
        lead = f"{self.benchmark.lower().replace('-', '_')}_"
        return self.task.removeprefix(lead).removeprefix("longbench_") or self.task

    def subset(self, chosen: Sequence[int]) -> TaskBoard:
        """The scores of some examples, by index."""
        examples = tuple(self.examples[index] for index in chosen)
        return TaskBoard(self.task, self.benchmark, self.group, self.metric, examples, self.scores[:, chosen])


def boards_of(records: Sequence[Record], configurations: Configurations) -> list[TaskBoard]:
    """One board a task; benchmarks, groups and tasks in the order of their first record."""
    rows = {configuration: row for row, configuration in enumerate(configurations.all)}
    by_task: dict[str, list[Record]] = {}
    for record in records:
        by_task.setdefault(record["task"], []).append(record)
    boards = []
    for task, own in by_task.items():
        columns: dict[ExampleKey, int] = {}
        for record in own:
            columns.setdefault(example_key(record), len(columns))
        scores = np.full((len(rows), len(columns)), np.nan)
        for record in own:
            if record["score"] is not None:
                scores[rows[Configuration.of(record)], columns[example_key(record)]] = 100 * record["score"]
        first = own[0]
        boards.append(TaskBoard(task, first["benchmark"], first["task_group"], first["metric"], tuple(columns), scores))
    return _grouped(boards)


def _grouped(boards: list[TaskBoard]) -> list[TaskBoard]:
    """Sort the tasks of a benchmark, and of a group within it, next to each other."""
    benchmarks = list(dict.fromkeys(board.benchmark for board in boards))
    groups = list(dict.fromkeys((board.benchmark, board.group) for board in boards))
    return sorted(boards, key=lambda b: (benchmarks.index(b.benchmark), groups.index((b.benchmark, b.group))))


def with_differences(board: TaskBoard, pairs: Sequence[tuple[int, int]]) -> Resampled:
    """Resample a task: its configurations, then differences of pairs of them on the examples that both answered.

    Args:
        board: the task.
        pairs: rows of the board; each difference is the first minus the second.
    """
    differences = [board.scores[first] - board.scores[second] for first, second in pairs]
    return resample(np.vstack([board.scores, *differences]), board.task)
