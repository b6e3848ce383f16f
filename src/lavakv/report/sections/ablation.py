"""What each kind of budget gains in generation and in extraction, where a run has `lava` with and without it."""

from __future__ import annotations

from typing import NamedTuple

from lavakv.evaluation.ablation import ABLATED, INSIGHT, KIND_NAMES, holds, task_kind
from lavakv.evaluation.bootstrap import Estimate
from lavakv.report.analysis import Analysis
from lavakv.report.contender import Contender


class Gained(NamedTuple):
    """`lava` against itself without one kind of budget, on the tasks of one kind.

    Attributes:
        contender: `lava` without it.
        kind: "generation" or "extraction".
        without: "layer budgets" or "head budgets".
        is_insight: does the paper say that these budgets gain here?
        gain: paired difference.
    """

    contender: Contender
    kind: str
    without: str
    is_insight: bool
    gain: Estimate

    @property
    def holds(self) -> str:
        """One of "yes", "reversed" and "not settled"."""
        return holds(self.gain)


def ablation(analysis: Analysis) -> list[Gained]:
    """By budget from small to large; none where the run has no `lava` or nothing to compare it with."""
    made = []
    for contender in analysis.field.contenders:
        whole = analysis.unablated(contender)
        if whole is None:
            continue
        for kind in KIND_NAMES:
            own = [board for board in analysis.boards if task_kind(board.group, board.task) == kind]
            gain = analysis.difference(whole, contender, own)
            if gain is not None and gain.known:
                is_insight = (contender.policy, kind) in INSIGHT
                made.append(Gained(contender, kind, ABLATED[contender.policy], is_insight, gain))
    return made
