"""Needle in a haystack: a map for every contender, depth down, length across."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lavakv.evaluation.bootstrap import Scores
from lavakv.report.analysis import Analysis
from lavakv.report.board import TaskBoard
from lavakv.report.contender import Contender


class HeatMap(NamedTuple):
    """One contender's scores.

    Attributes:
        contender: whose.
        cells: `[depths, lengths]`, 0 to 100, NaN where nothing was scored.
        mean: over cells.
    """

    contender: Contender
    cells: Scores
    mean: float

    @property
    def by_length(self) -> list[float]:
        """Mean over depths of each length; NaN where nothing was scored."""
        columns = [column[np.isfinite(column)] for column in self.cells.T]
        return [float(column.mean()) if column.size else float("nan") for column in columns]


class NeedleTask(NamedTuple):
    """Maps of one task.

    Attributes:
        task: name.
        metric: name.
        lengths: in tokens, ascending.
        depths: in percent, ascending.
        maps: the full cache first.
    """

    task: str
    metric: str
    lengths: list[int]
    depths: list[float]
    maps: list[HeatMap]


def needle_tasks(analysis: Analysis) -> list[NeedleTask]:
    """Every task whose examples have a depth and a length."""
    return [_maps(analysis, board) for board in analysis.boards if has_depths(board)]


def has_depths(board: TaskBoard) -> bool:
    """Do all examples have a depth and a length?"""
    return all(length is not None and depth is not None for *_, length, depth in board.examples)


def _maps(analysis: Analysis, board: TaskBoard) -> NeedleTask:
    lengths = sorted({example[3] for example in board.examples})
    depths = sorted({example[4] for example in board.examples})
    maps = []
    for contender in analysis.field.contenders:
        row = board.scores[analysis.row(contender)]
        cells = np.full((len(depths), len(lengths)), np.nan)
        for across, length in enumerate(lengths):
            for down, depth in enumerate(depths):
                own = row[[key[3] == length and key[4] == depth for key in board.examples]]
                own = own[np.isfinite(own)]
                if own.size:
                    cells[down, across] = own.mean()
        known = cells[np.isfinite(cells)]
        if known.size:
            maps.append(HeatMap(contender, cells, float(known.mean())))
    return NeedleTask(board.task, board.metric, lengths, depths, maps)
