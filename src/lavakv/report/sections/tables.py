"""Score tables: by task group with intervals, by task for each benchmark as in the paper, and by prompt length."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from lavakv.evaluation.bootstrap import estimate
from lavakv.report.analysis import Analysis
from lavakv.report.board import TaskBoard, with_differences
from lavakv.report.run import ExampleKey
from lavakv.report.sections.needle import has_depths
from lavakv.report.sections.score_table import Column, ScoreTable, budget_rows


def group_table(analysis: Analysis) -> ScoreTable:
    """Task groups of all benchmarks; the average is over tasks, not over groups."""
    groups = by_group(analysis.boards)
    return _table(analysis, "", group_columns(groups), groups)


def group_columns(groups: Sequence[Sequence[TaskBoard]]) -> list[Column]:
    """A column for each group of tasks, under its benchmark if there are several."""
    several = len({own[0].benchmark for own in groups}) > 1
    return [Column(own[0].group, _names(own), own[0].benchmark if several else "", _num_prompts(own)) for own in groups]


def task_tables(analysis: Analysis) -> list[ScoreTable]:
    """One table a benchmark, one column a task."""
    tables = []
    for benchmark, boards in groupby(analysis.boards, key=lambda board: board.benchmark):
        own = list(boards)
        columns = [
            Column(board.short, f"{board.task}, {board.metric}", board.group, len(board.examples)) for board in own
        ]
        tables.append(_table(analysis, benchmark, columns, [[board] for board in own]))
    return tables


def length_tables(analysis: Analysis) -> list[ScoreTable]:
    """One table a benchmark with lengths (RULER) or length buckets (LongBench-E), one column each: means over tasks.

    Tasks with needle maps, which show lengths themselves, are left out.
    """
    tables = []
    for benchmark, own in groupby(analysis.boards, key=lambda board: board.benchmark):
        boards = [board for board in own if not has_depths(board)]
        lengths = {length_of(example) for board in boards for example in board.examples}
        ordered = sorted((length for length in lengths if length is not None), key=_order)
        if len(ordered) > 1:
            tables.append(_length_table(analysis, benchmark, boards, ordered))
    return tables


def by_group(boards: Sequence[TaskBoard]) -> list[list[TaskBoard]]:
    """Boards by group and benchmark."""
    return [list(own) for _, own in groupby(boards, key=lambda board: (board.benchmark, board.group))]


def length_of(example: ExampleKey) -> int | str | None:
    """An example's length in tokens, else its bucket; None if it has neither."""
    return example.length if example.length is not None else example.group or None


def _order(length: int | str) -> tuple[int, int, str]:
    """Lengths by number; buckets by the first number in their name."""
    if isinstance(length, int):
        return 0, length, ""
    digits = "".join(character if character.isdecimal() else " " for character in length).split()
    return 1, int(digits[0]) if digits else 0, length


def _names(boards: Sequence[TaskBoard]) -> str:
    return ", ".join(board.task for board in boards)


def _num_prompts(boards: Sequence[TaskBoard]) -> int:
    return sum(len(board.examples) for board in boards)


def _table(analysis: Analysis, title: str, columns: list[Column], groups: Sequence[Sequence[TaskBoard]]) -> ScoreTable:
    boards = [board for own in groups for board in own]
    rows = budget_rows(
        analysis,
        lambda configuration: [
            *(analysis.score(configuration, own) for own in groups),
            analysis.score(configuration, boards),
        ],
    )
    return ScoreTable(title, columns, rows)


def _length_table(
    analysis: Analysis, benchmark: str, boards: Sequence[TaskBoard], lengths: Sequence[int | str]
) -> ScoreTable:
    resampled, columns = [], []
    for length in lengths:
        subsets = [
            board.subset([index for index, example in enumerate(board.examples) if length_of(example) == length])
            for board in boards
        ]
        own = [subset for subset in subsets if subset.examples]
        resampled.append([with_differences(board, []) for board in own])
        name = f"{length:,}" if isinstance(length, int) else length
        columns.append(Column(name, _names(own), "", _num_prompts(own)))
    rows = budget_rows(
        analysis,
        lambda configuration: [
            *(estimate(own, analysis.row(configuration)) for own in resampled),
            analysis.score(configuration, boards),
        ],
    )
    return ScoreTable(benchmark, columns, rows)
