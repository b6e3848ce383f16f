"""How the budget is distributed: the share of the prompt that each head of each layer keeps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lavakv.evaluation.bootstrap import Scores
from lavakv.evaluation.record import Record
from lavakv.report.analysis import Analysis
from lavakv.report.configuration import Configuration


class ShareMap(NamedTuple):
    """One configuration's mean shares over all prompts.

    Attributes:
        configuration: measured.
        shares: `[layers, heads]`, 0 to 1, NaN for heads that a layer does not have.
        spread: largest layer's mean over smallest layer's mean.
    """

    configuration: Configuration
    shares: Scores
    spread: float

    @property
    def layers(self) -> list[float]:
        """Mean share of each layer."""
        return [float(np.nanmean(row)) for row in self.shares]


def share_maps(analysis: Analysis) -> list[ShareMap]:
    """A map for every configuration but the full cache, if the records hold entries per head."""
    sums: dict[Configuration, Scores] = {}
    counts: dict[Configuration, int] = {}
    for record in analysis.run.records:
        configuration = Configuration.of(record)
        if configuration.is_full or not any(map(any, record["head_entries"] or ())):
            continue
        shares = _shares(record)
        if configuration in sums and sums[configuration].shape != shares.shape:
            continue  # from another model: cannot be averaged
        sums[configuration] = sums.get(configuration, 0.0) + shares
        counts[configuration] = counts.get(configuration, 0) + 1
    return [_share_map(c, sums[c] / counts[c]) for c in analysis.configurations.all if c in sums]


def _shares(record: Record) -> Scores:
    """Entries over compressed tokens, `[layers, heads]`; a question that came later is not among these."""
    rows = record["head_entries"] or []
    entries = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, counts in zip(entries, rows, strict=True):
        row[: len(counts)] = counts
    entries[entries == 0] = np.nan  # every head keeps its window, so 0 marks a head that does not exist
    shares: Scores = entries * (record["kept_fraction"] / np.nanmean(entries))
    return shares


def _share_map(configuration: Configuration, shares: Scores) -> ShareMap:
    layers = np.nanmean(shares, axis=1)
    return ShareMap(configuration, shares, float(layers.max() / layers.min()))
