"""Where KL divergence and task scores order policies differently."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lavakv.evaluation.bootstrap import Scores
from lavakv.report.policies.standing import Standing

_AGREE, _RELATED = 0.8, 0.5  # of the rank correlation
_FEW = 4  # policies below which an order says nothing


class Disagreement(NamedTuple):
    """How well the order by divergence predicts the order by score.

    Attributes:
        correlation: Spearman's, of low divergence with high score; 1 is the same order.
        closest: the policy with the lowest divergence.
        closest_place: its place by score, from 1.
        best: the policy with the highest score.
        best_place: its place by divergence, from 1.
        num: policies.
    """

    correlation: float
    closest: Standing
    closest_place: int
    best: Standing
    best_place: int
    num: int

    @property
    def sentence(self) -> str:
        """The same in words."""
        degree = "the same way" if self.correlation >= _AGREE else "similarly"
        degree = degree if self.correlation >= _RELATED else "differently"
        text = f"KL and scores order {self.num} policies {degree} "
        text += f"(rank correlation {self.correlation:.2f}). "
        if self.closest.policy == self.best.policy:
            return f"{text}{self.best.policy} has the lowest divergence and the highest score."
        return (
            f"{text}{self.closest.policy} has the lowest divergence ({self.closest.kl_nats:.2g} nats) and is number "
            f"{self.closest_place} by score ({self.closest.share.mean:.0f} % of the full cache's); {self.best.policy} "
            f"has the highest score ({self.best.share.mean:.0f} %) and is number {self.best_place} by divergence "
            f"({self.best.kl_nats:.2g} nats)."
        )


def disagreement(standings: Sequence[Standing]) -> Disagreement | None:
    """Compare the two orders; None without divergences, or with too few policies to have an order.

    Args:
        standings: best first.
    """
    known = [one for one in standings if not math.isnan(one.kl_nats)]
    if len(known) < _FEW:
        return None
    by_score, by_kl = _ranks([-one.share.mean for one in known]), _ranks([one.kl_nats for one in known])
    if len(set(by_score)) < 2 or len(set(by_kl)) < 2:
        return None
    closest, best = int(by_kl.argmin()), int(by_score.argmin())
    return Disagreement(
        float(np.corrcoef(by_score, by_kl)[0, 1]),
        known[closest], math.ceil(by_score[closest]), known[best], math.ceil(by_kl[best]), len(known),
    )  # fmt: skip


def _ranks(values: Sequence[float]) -> Scores:
    """Ranks from 1, equal values sharing their mean rank."""
    numbers = np.asarray(values)
    below = (numbers[None] < numbers[:, None]).sum(axis=1)
    equal = (numbers[None] == numbers[:, None]).sum(axis=1)
    ranks: Scores = below + (equal + 1) / 2
    return ranks
