"""How each policy stands in a mode at a kept fraction: its share of the full cache's score, and its divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from lavakv.evaluation.bootstrap import LEVEL, Estimate, Scores
from lavakv.report.analysis import Analysis
from lavakv.report.board import TaskBoard
from lavakv.report.configuration import Configuration
from lavakv.report.policies.runs import ModelRuns
from lavakv.report.sections.tables import by_group

MIN_NATS = 1e-6


class Standing(NamedTuple):
    """One policy in one mode at one kept fraction, over one or several models. Shares are in percent.

    Attributes:
        policy: its name.
        share: its score over the full cache's, both means over groups of tasks; mean over models.
        lead: the paired difference of that from the baseline's; None for the baseline itself or without one.
        groups: the same share for each group of tasks, NaN where the full cache scores nothing.
        kl_nats: geometric mean over prompts and models of the KL divergence from the full cache; NaN if unknown.
    """

    policy: str
    share: Estimate
    lead: Estimate | None
    groups: dict[str, float]
    kl_nats: float


class _Drawn(NamedTuple):
    """A weighted mean over tasks with its bootstrap draws."""

    mean: float
    draws: Scores
    num: int
    least: int


def standings(models: Sequence[ModelRuns], budget: str, mode: str) -> list[Standing]:
    """All policies that every model was evaluated with, best first.

    Args:
        models: with their runs.
        budget: as in the records, e.g. "25%".
        mode: query-aware or query-agnostic.
    """
    names = models[0].analysis.configurations.policies
    found = [_standing(models, Configuration(name, budget, mode)) for name in names]
    return sorted((one for one in found if one is not None), key=lambda one: -one.share.mean)


def _standing(models: Sequence[ModelRuns], configuration: Configuration) -> Standing | None:
    shares, leads, groups, nats = [], [], [], []
    for model in models:
        analysis = model.analysis
        full = analysis.full_of(configuration)
        if full is None or configuration not in analysis.configurations.kept:
            return None
        weights = _weights(analysis, full)
        share = None if weights is None else _drawn(analysis, analysis.row(configuration), weights)
        if share is None or weights is None:
            return None
        shares.append(share)
        pair = analysis.pair_to_baseline(configuration)
        leads.append(None if pair is None else _drawn(analysis, pair, {task: -each for task, each in weights.items()}))
        groups.append(_group_shares(analysis, configuration, full))
        nats.append(_kl(analysis, configuration))
    known = [lead for lead in leads if lead is not None]
    merged = {name: fmean(each[name] for each in groups if name in each) for each in groups for name in each}
    return Standing(
        configuration.policy,
        _mean(shares),
        _mean(known) if len(known) == len(models) else None,
        merged,
        math.exp(fmean(math.log(max(each, MIN_NATS)) for each in nats)) if not any(map(math.isnan, nats)) else math.nan,
    )


def _weights(analysis: Analysis, full: Configuration) -> dict[str, float] | None:
    """Weight of each task, so that the weighted sum of scores is the share of the full cache's in percent."""
    groups = by_group(analysis.boards)
    whole = fmean(fmean(analysis.score(full, [board]).mean for board in own) for own in groups)
    if not whole > 0:
        return None
    return {board.task: 100 / (len(groups) * len(own) * whole) for own in groups for board in own}


def _drawn(analysis: Analysis, row: int, weights: dict[str, float]) -> _Drawn | None:
    """The weighted mean of one row; None where a task has no score for it."""
    own = [(analysis.resampled[task], weight) for task, weight in weights.items()]
    counts = [int(task.counts[row]) for task, _ in own]
    if not all(counts):
        return None
    mean = sum(weight * float(task.means[row]) for task, weight in own)
    draws = np.sum([weight * task.draws[:, row] for task, weight in own], axis=0)
    return _Drawn(mean, draws, sum(counts), min(counts))


def _mean(drawn: Sequence[_Drawn]) -> Estimate:
    """The mean over models, with its interval."""
    tail = (100 - LEVEL) / 2
    low, high = np.nanpercentile(np.mean([each.draws for each in drawn], axis=0), [tail, 100 - tail])
    num, least = sum(each.num for each in drawn), min(each.least for each in drawn)
    return Estimate(fmean(each.mean for each in drawn), float(low), float(high), num, least)


def _group_shares(analysis: Analysis, configuration: Configuration, full: Configuration) -> dict[str, float]:
    found = {}
    for own in by_group(analysis.boards):
        whole = analysis.score(full, own).mean
        found[group_name(own)] = 100 * analysis.score(configuration, own).mean / whole if whole > 0 else math.nan
    return found


def group_name(boards: Sequence[TaskBoard]) -> str:
    """A group of tasks for readers, as in "RULER: Retrieval"."""
    board = boards[0]
    return "Needle" if board.benchmark.startswith("Needle") else f"{board.benchmark}: {board.group}"


def _kl(analysis: Analysis, configuration: Configuration) -> float:
    found = [r["kl_nats"] for r in analysis.records_of(configuration) if "kl_nats" in r]
    return math.exp(fmean(math.log(max(each, MIN_NATS)) for each in found)) if found else math.nan
