"""Score tables: by task group with intervals, and one a benchmark with every task, like the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from lavakv.report.analysis import Analysis
from lavakv.report.board import TaskBoard
from lavakv.report.sections.blocks import Column, ScoreTable, blocks


def group_table(analysis: Analysis) -> ScoreTable:
    """Task groups of all benchmarks; the average is over tasks, not over groups."""
    parts = by_group(analysis.boards)
    return _table(analysis, "", group_columns(parts), parts)


def group_columns(parts: Sequence[Sequence[TaskBoard]]) -> list[Column]:
    """A column for each group of tasks, under its benchmark where there is more than one."""
    several = len({own[0].benchmark for own in parts}) > 1
    return [
        Column(own[0].group, ", ".join(board.task for board in own), own[0].benchmark if several else "", _num(own))
        for own in parts
    ]


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


def by_group(boards: Sequence[TaskBoard]) -> list[list[TaskBoard]]:
    """Boards of the same group of the same benchmark together."""
    return [list(own) for _, own in groupby(boards, key=lambda board: (board.benchmark, board.group))]


def _num(boards: Sequence[TaskBoard]) -> int:
    return sum(len(board.examples) for board in boards)


def _table(analysis: Analysis, title: str, columns: list[Column], parts: Sequence[Sequence[TaskBoard]]) -> ScoreTable:
    boards = [board for own in parts for board in own]
    made = blocks(
        analysis,
        lambda contender: [*(analysis.score(contender, own) for own in parts), analysis.score(contender, boards)],
    )
    return ScoreTable(title, columns, made)
