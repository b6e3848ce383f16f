"""Who is ahead, and does it hold? Paired differences on the same prompts, with intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lavakv.evaluation.bootstrap import Estimate
from lavakv.report.analysis import Analysis
from lavakv.report.contender import Contender


class Duel(NamedTuple):
    """The baseline against another policy at the same budget, or a contender against the full cache.

    Attributes:
        first: whose score counts as plus.
        second: whose counts as minus.
        difference: mean over tasks, with its interval.
        won: prompts on which the first scored higher.
        tied: prompts on which both scored the same.
        lost: prompts on which the second scored higher.
    """

    first: Contender
    second: Contender
    difference: Estimate
    won: int
    tied: int
    lost: int


def against_rivals(analysis: Analysis) -> list[Duel]:
    """The baseline policy against every other one, budget by budget."""
    found = []
    for contender in analysis.field.contenders:
        rival = analysis.rival_of(contender)
        if rival is not None:
            found.append(_duel(analysis, rival, contender))
    return [duel for duel in found if duel.difference.known]


def against_full(analysis: Analysis) -> list[Duel]:
    """Every contender against the full cache."""
    found = []
    for contender in analysis.field.contenders:
        full = analysis.full_of(contender)
        if full is not None and not contender.is_full:
            found.append(_duel(analysis, contender, full))
    return [duel for duel in found if duel.difference.known]


def _duel(analysis: Analysis, first: Contender, second: Contender) -> Duel:
    rows = analysis.row(first), analysis.row(second)
    gaps = np.concatenate([board.scores[rows[0]] - board.scores[rows[1]] for board in analysis.boards])
    gaps = gaps[np.isfinite(gaps)].round(6)
    difference = analysis.difference(first, second)
    assert difference is not None
    return Duel(first, second, difference, int((gaps > 0).sum()), int((gaps == 0).sum()), int((gaps < 0).sum()))
