"""Percentile bootstrap over examples (Efron 1979): how far a mean would move with other examples of the same kind.

Every draw resamples a task's examples with replacement, the same ones for all configurations: differences are paired.
Averages over tasks draw within each task: tasks are fixed, examples are not.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_DRAWS, LEVEL = 2000, 95
FEW, FEW_IN_TASK = 10, 5  # prompts that a difference needs to hold: in all, and of each task

Scores = NDArray[np.float64]


class Estimate(NamedTuple):
    """A mean and its 95 % interval; all NaN where nothing was scored.

    Attributes:
        mean: of the examples, or of the tasks' means.
        low: lower end.
        high: upper end.
        num: scored examples behind it.
        least: of the task that has fewest of them.
    """

    mean: float
    low: float
    high: float
    num: int
    least: int

    @property
    def known(self) -> bool:
        """True if anything was scored."""
        return self.num > 0

    @property
    def verdict(self) -> str:
        """Of a difference: "ahead" or "behind" if its interval leaves zero out and rests on enough prompts; or "open".

        With a handful of prompts intervals are too narrow to be reliable. With one prompt a task they have no width at
        all, whatever the number of tasks.
        """
        if self.num < FEW or self.least < FEW_IN_TASK or self.low <= 0 <= self.high:
            return "open"
        return "ahead" if self.low > 0 else "behind"

    @property
    def holds(self) -> bool:
        """True if a difference is more than chance explains."""
        return self.verdict != "open"


class Resampled(NamedTuple):
    """One task's rows, resampled.

    Attributes:
        means: `[rows]`.
        draws: `[NUM_DRAWS, rows]`.
        counts: `[rows]`, scored examples.
    """

    means: Scores
    draws: Scores
    counts: NDArray[np.int64]


def resample(rows: Scores, seed: str) -> Resampled:
    """Resample the examples of one task, the same ones for every row.

    Args:
        rows: `[rows, examples]`, NaN where there is no score; such an example does not count for its row.
        seed: text; the task's name, so that a task's intervals do not depend on what else ran.
    """
    there = np.isfinite(rows)
    values = np.where(there, rows, 0.0)
    num = rows.shape[1]
    generator = np.random.default_rng(zlib.crc32(seed.encode("utf-8", "replace")))
    weights = generator.multinomial(num, np.full(num, 1 / num), size=NUM_DRAWS).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = (weights @ values.T) / (weights @ there.T.astype(np.float64))
        means = values.sum(axis=1) / there.sum(axis=1)
    return Resampled(means, draws, there.sum(axis=1))


def estimate(tasks: Sequence[Resampled], row: int) -> Estimate:
    """One row's mean over tasks; a task without any score for it is left out."""
    own = [task for task in tasks if task.counts[row]]
    if not own:
        return Estimate(float("nan"), float("nan"), float("nan"), 0, 0)
    draws = np.mean([task.draws[:, row] for task in own], axis=0)
    tail = (100 - LEVEL) / 2
    low, high = np.nanpercentile(draws, [tail, 100 - tail])
    mean = float(np.mean([task.means[row] for task in own]))
    counts = [int(task.counts[row]) for task in own]
    return Estimate(mean, float(low), float(high), sum(counts), min(counts))
