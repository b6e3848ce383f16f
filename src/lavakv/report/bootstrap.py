"""A task's board, resampled: scores, and differences of those who answered the same prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lavakv.evaluation.bootstrap import Resampled, resample
from lavakv.report.board import TaskBoard


def with_differences(board: TaskBoard, pairs: Sequence[tuple[int, int]]) -> Resampled:
    """A task's contenders, followed by the differences of pairs of them on the examples that both answered."""
    differences = [board.scores[first] - board.scores[second] for first, second in pairs]
    return resample(np.vstack([board.scores, *differences]), board.task)
