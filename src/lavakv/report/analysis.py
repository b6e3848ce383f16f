"""A run's scores, resampled, with the means and differences that the report's sections show."""

from __future__ import annotations

from collections.abc import Sequence

from lavakv.errors import InputError
from lavakv.evaluation.ablation import ABLATED, FULL
from lavakv.evaluation.bootstrap import Estimate, Resampled, estimate
from lavakv.evaluation.record import Record
from lavakv.report.board import TaskBoard, boards_of, with_differences
from lavakv.report.configuration import Configuration, configurations_of
from lavakv.report.run import Run


class Analysis:
    """Scores of a run, resampled once.

    Args:
        run: its records.
        baseline: the policy that others are compared with; `lava`, or the first one, if None.

    Raises:
        InputError: the run has no such policy.

    Attributes:
        run: its records.
        configurations: policies, budgets and modes.
        baseline: the policy that others are compared with, or None.
        boards: scores by task.
        resampled: the boards' rows and those of pairs, resampled, by task.
    """

    def __init__(self, run: Run, baseline: str | None = None) -> None:
        self.run = run
        listed = run.settings.get("policies")
        policies = [str(name) for name in listed] if isinstance(listed, list) else []
        self.configurations = configurations_of(run.records, policies)
        self.baseline = _baseline(baseline, self.configurations.policies)
        self.boards = boards_of(run.records, self.configurations)
        self._rows = {configuration: row for row, configuration in enumerate(self.configurations.all)}
        pairs = self._pairs()
        self._pair_rows = {pair: len(self._rows) + index for index, pair in enumerate(pairs)}
        self._records: dict[Configuration, list[Record]] = {}
        for record in run.records:
            self._records.setdefault(Configuration.of(record), []).append(record)
        indices = [(self._rows[first], self._rows[second]) for first, second in pairs]
        self.resampled = {board.task: with_differences(board, indices) for board in self.boards}

    @property
    def num_examples(self) -> int:
        """Number of prompts of all tasks."""
        return sum(len(board.examples) for board in self.boards)

    def row(self, configuration: Configuration) -> int:
        """A configuration's row in every board."""
        return self._rows[configuration]

    def score(self, configuration: Configuration, boards: Sequence[TaskBoard] | None = None) -> Estimate:
        """Mean over tasks, with its interval; over all tasks if `boards` is None."""
        return estimate(self._of(boards), self._rows[configuration])

    def difference(
        self, first: Configuration, second: Configuration, boards: Sequence[TaskBoard] | None = None
    ) -> Estimate | None:
        """Paired difference, first minus second; None for a pair that is not compared."""
        row = self._pair_rows.get((first, second))
        return None if row is None else estimate(self._of(boards), row)

    def pair_to_baseline(self, configuration: Configuration) -> int | None:
        """The resampled row of the baseline's score minus a configuration's; None where they are not compared."""
        baseline = self.baseline_of(configuration)
        return None if baseline is None else self._pair_rows[baseline, configuration]

    def records_of(self, configuration: Configuration) -> list[Record]:
        """A configuration's records, in file order."""
        return self._records.get(configuration, [])

    def full_of(self, configuration: Configuration) -> Configuration | None:
        """The full cache in the same mode, if the run has it."""
        return next((full for full in self.configurations.full if full.mode == configuration.mode), None)

    def baseline_of(self, configuration: Configuration) -> Configuration | None:
        """The baseline policy at the same budget and mode; None if the run lacks it or it is the same configuration."""
        if self.baseline is None or configuration.is_full:
            return None
        baseline = Configuration(self.baseline, configuration.budget, configuration.mode)
        return baseline if baseline in self._rows and baseline != configuration else None

    def unablated(self, configuration: Configuration) -> Configuration | None:
        """`lava` at the same budget and mode, for `lava` without layer or head budgets; None if the run lacks it."""
        complete = Configuration(FULL, configuration.budget, configuration.mode)
        return complete if configuration.policy in ABLATED and complete in self._rows else None

    def _of(self, boards: Sequence[TaskBoard] | None) -> list[Resampled]:
        return [self.resampled[board.task] for board in (self.boards if boards is None else boards)]

    def _pairs(self) -> list[tuple[Configuration, Configuration]]:
        pairs = []
        for configuration in self.configurations.all:
            full = self.full_of(configuration)
            others = self.baseline_of(configuration), self.unablated(configuration)
            if full is not None and not configuration.is_full:
                pairs.append((configuration, full))
            pairs += [(other, configuration) for other in others if other is not None]
        return list(dict.fromkeys(pairs))


def _baseline(name: str | None, policies: Sequence[str]) -> str | None:
    if name is None:
        return "lava" if "lava" in policies else next(iter(policies), None)
    if name not in policies:
        expected = f"a policy of the run: {', '.join(policies)}"
        raise InputError("--baseline", expected=expected, got=repr(name), fix="Name one of these.")
    return name
