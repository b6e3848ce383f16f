"""A run's scores with everything that sections of the report ask of them."""

from __future__ import annotations

from collections.abc import Sequence

from lavakv.errors import InputError
from lavakv.evaluation.ablation import ABLATED, FULL
from lavakv.evaluation.bootstrap import Estimate, Resampled, estimate
from lavakv.report.board import TaskBoard, boards_of
from lavakv.report.bootstrap import with_differences
from lavakv.report.contender import Contender, field_of
from lavakv.report.run import Run


class Analysis:
    """Scores of a run, resampled once.

    Args:
        run: its records.
        baseline: the policy that others are compared with; `lava`, or the first one, if None.

    Raises:
        InputError: the run has no such policy.
    """

    def __init__(self, run: Run, baseline: str | None = None) -> None:
        self.run = run
        listed = run.settings.get("policies")
        self.field = field_of(run.records, [str(name) for name in listed] if isinstance(listed, list) else [])
        self.baseline = _baseline(baseline, self.field.policies)
        self.boards = boards_of(run.records, self.field)
        self._rows = {contender: row for row, contender in enumerate(self.field.contenders)}
        pairs = self._pairs()
        self._pair_rows = {pair: len(self._rows) + index for index, pair in enumerate(pairs)}
        indices = [(self._rows[first], self._rows[second]) for first, second in pairs]
        self._resampled = {board.task: with_differences(board, indices) for board in self.boards}

    @property
    def num_examples(self) -> int:
        """Prompts of all tasks."""
        return sum(len(board.examples) for board in self.boards)

    def row(self, contender: Contender) -> int:
        """A contender's row in every board."""
        return self._rows[contender]

    def score(self, contender: Contender, boards: Sequence[TaskBoard] | None = None) -> Estimate:
        """Mean over tasks, all of them or some."""
        return estimate(self._of(boards), self._rows[contender])

    def difference(
        self, first: Contender, second: Contender, boards: Sequence[TaskBoard] | None = None
    ) -> Estimate | None:
        """Paired difference, first minus second; None for a pair that is not compared."""
        row = self._pair_rows.get((first, second))
        return None if row is None else estimate(self._of(boards), row)

    def full_of(self, contender: Contender) -> Contender | None:
        """The full cache in the same mode, if the run has it."""
        return next((full for full in self.field.full if full.mode == contender.mode), None)

    def rival_of(self, contender: Contender) -> Contender | None:
        """The baseline policy at the same budget and mode, if the run has it and it is another."""
        if self.baseline is None or contender.is_full:
            return None
        rival = Contender(self.baseline, contender.budget, contender.mode)
        return rival if rival in self._rows and rival != contender else None

    def unablated(self, contender: Contender) -> Contender | None:
        """`lava` at the same budget and mode, for `lava` without layer or head budgets; None if the run lacks it."""
        whole = Contender(FULL, contender.budget, contender.mode)
        return whole if contender.policy in ABLATED and whole in self._rows else None

    def _of(self, boards: Sequence[TaskBoard] | None) -> list[Resampled]:
        return [self._resampled[board.task] for board in (self.boards if boards is None else boards)]

    def _pairs(self) -> list[tuple[Contender, Contender]]:
        pairs = []
        for contender in self.field.contenders:
            full, ahead = self.full_of(contender), (self.rival_of(contender), self.unablated(contender))
            if full is not None and not contender.is_full:
                pairs.append((contender, full))
            pairs += [(other, contender) for other in ahead if other is not None]
        return list(dict.fromkeys(pairs))


def _baseline(asked: str | None, policies: Sequence[str]) -> str | None:
    if asked is None:
        return "lava" if "lava" in policies else next(iter(policies), None)
    if asked not in policies:
        raise InputError(
            "--baseline", expected=f"a policy of the run: {', '.join(policies)}", got=repr(asked), fix="Name one."
        )
    return asked
