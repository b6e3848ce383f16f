"""Needle in a haystack: a map of scores for every configuration, depths down, lengths across."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lavakv.evaluation.bootstrap import Scores
from lavakv.report.analysis import Analysis
from lavakv.report.board import TaskBoard
from lavakv.report.configuration import Configuration


class HeatMap(NamedTuple):
    """One configuration's scores.

    Attributes:
        configuration: scored.
        cells: `[depths, lengths]`, 0 to 100, NaN where nothing was scored.
        mean: over cells.
    """

    configuration: Configuration
    cells: Scores
    mean: float

    @property
    def by_length(self) -> list[float]:
        """Mean over depths for each length; NaN where nothing was scored."""
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
    """The maps of every task whose examples have a depth and a length."""
    return [_maps(analysis, board) for board in analysis.boards if has_depths(board)]


def has_depths(board: TaskBoard) -> bool:
    """Whether all examples have a depth and a length."""
    return all(example.length is not None and example.depth is not None for example in board.examples)


def _maps(analysis: Analysis, board: TaskBoard) -> NeedleTask:
    lengths = sorted({example.length for example in board.examples if example.length is not None})
    depths = sorted({example.depth for example in board.examples if example.depth is not None})
    maps = []
    for configuration in analysis.configurations.all:
        row = board.scores[analysis.row(configuration)]
        cells = np.full((len(depths), len(lengths)), np.nan)
        for across, length in enumerate(lengths):
            for down, depth in enumerate(depths):
                own = row[[example[3:] == (length, depth) for example in board.examples]]
                own = own[np.isfinite(own)]
                if own.size:
                    cells[down, across] = own.mean()
        known = cells[np.isfinite(cells)]
        if known.size:
            maps.append(HeatMap(configuration, cells, float(known.mean())))
    return NeedleTask(board.task, board.metric, lengths, depths, maps)
