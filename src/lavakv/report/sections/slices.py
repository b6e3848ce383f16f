"""Scores by prompt length, where a benchmark has lengths (RULER) or length buckets (LongBench-E)."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from lavakv.evaluation.bootstrap import estimate
from lavakv.report.analysis import Analysis
from lavakv.report.board import TaskBoard
from lavakv.report.bootstrap import with_differences
from lavakv.report.sections.blocks import Column, ScoreTable, blocks
from lavakv.report.sections.needle import has_depths


def slice_tables(analysis: Analysis) -> list[ScoreTable]:
    """One table a benchmark, one column a length or bucket: the mean over its tasks; needle maps show theirs."""
    tables = []
    for benchmark, own in groupby(analysis.boards, key=lambda board: board.benchmark):
        boards = [board for board in own if not has_depths(board)]
        slices = sorted({slice_of(example) for board in boards for example in board.examples} - {None}, key=_size)
        if len(slices) > 1:
            tables.append(_table(analysis, benchmark, boards, slices))
    return tables


def slice_of(example: tuple[Any, ...]) -> int | str | None:
    """Length, else bucket, of an example's key; None where it has neither."""
    _, _, group, length, _ = example
    return length if length is not None else group or None


def _size(part: Any) -> tuple[int, int, str]:
    """Lengths by number; buckets by the first number in their name."""
    if isinstance(part, int):
        return 0, part, ""
    digits = "".join(character if character.isdecimal() else " " for character in part).split()
    return 1, int(digits[0]) if digits else 0, part


def _table(analysis: Analysis, benchmark: str, boards: list[TaskBoard], slices: list[Any]) -> ScoreTable:
    parts, columns = [], []
    for part in slices:
        own = [board.part([i for i, key in enumerate(board.examples) if slice_of(key) == part]) for board in boards]
        own = [board for board in own if board.examples]
        parts.append([with_differences(board, []) for board in own])
        name = f"{part:,}" if isinstance(part, int) else part
        num = sum(len(board.examples) for board in own)
        columns.append(Column(name, ", ".join(board.task for board in own), "", num))
    made = blocks(
        analysis,
        lambda contender: [
            *(estimate(part, analysis.row(contender)) for part in parts),
            analysis.score(contender, boards),
        ],
    )
    return ScoreTable(benchmark, columns, made)
