"""Where the budget goes: the share of the prompt that each head of each layer keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lavakv.evaluation.bootstrap import Scores
from lavakv.report.analysis import Analysis
from lavakv.report.contender import Contender


class ShareMap(NamedTuple):
    """One contender's mean shares over all prompts.

    Attributes:
        contender: whose.
        shares: `[layers, heads]`, 0 to 1, NaN for a head that a layer lacks.
        spread: largest layer's mean over smallest layer's mean.
    """

    contender: Contender
    shares: Scores
    spread: float

    @property
    def layers(self) -> list[float]:
        """Mean share of each layer."""
        return [float(np.nanmean(row)) for row in self.shares]


def share_maps(analysis: Analysis) -> list[ShareMap]:
    """A map for every contender but the full cache; none where the records hold no entries per head."""
    sums: dict[Contender, Scores] = {}
    counts: dict[Contender, int] = {}
    for record in analysis.run.records:
        contender = Contender.of(record)
        if contender.is_full or not any(map(any, record["head_entries"] or ())):
            continue
        shares = _shares(record)
        if contender in sums and sums[contender].shape != shares.shape:
            continue  # not the same model: nothing to average
        sums[contender] = sums.get(contender, 0.0) + shares
        counts[contender] = counts.get(contender, 0) + 1
    return [_share_map(c, sums[c] / counts[c]) for c in analysis.field.contenders if c in sums]


def _shares(record: Mapping[str, Any]) -> Scores:
    """Entries over the tokens that were compressed, which are not the whole prompt where the question came later."""
    rows = record["head_entries"]
    entries = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, counts in zip(entries, rows, strict=True):
        row[: len(counts)] = counts
    entries[entries == 0] = np.nan  # every head keeps its window, so 0 is a head that is not there
    shares: Scores = entries * (record["kept_fraction"] / np.nanmean(entries))
    return shares


def _share_map(contender: Contender, shares: Scores) -> ShareMap:
    layers = np.nanmean(shares, axis=1)
    return ShareMap(contender, shares, float(layers.max() / layers.min()))
