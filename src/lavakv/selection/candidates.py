"""Candidates of a layer whose heads are on several ranks: cut to those that can matter, merged by the total order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.errors import InputError
from lavakv.selection.ranking import Ranking, best_entries, best_first_order, grouped_order


class Candidates(NamedTuple):
    """Candidates of some heads of a layer, best first.

    Attributes:
        heads: int16 `[entries]`, each one's head, counted through the whole layer.
        scores: `[entries]`, of the dtype that was ranked.
        tiers: int8 `[entries]`, see `Ranking.pooled_tiers`; None where all are 0.
    """

    heads: Tensor
    scores: Tensor
    tiers: Tensor | None = None

    @property
    def tiers_or_zeros(self) -> Tensor:
        """Their tiers, int8 `[entries]`."""
        return torch.zeros_like(self.heads, dtype=torch.int8) if self.tiers is None else self.tiers

    def at(self, which: Tensor) -> Candidates:
        """Those at some places, in that order; or those that a mask marks."""
        return Candidates(self.heads[which], self.scores[which], None if self.tiers is None else self.tiers[which])


def candidates(ranking: Ranking, heads: Sequence[int], max_entries: int) -> Candidates:
    """The candidates of this rank's heads that can be among a layer's best, without waiting for a device.

    Args:
        ranking: of this rank's heads.
        heads: numbers of these heads in the whole layer, ascending.
        max_entries: how many of a layer can matter: `layer_max_entries`, or what the sequence keeps in all heads of all
            layers, windows excluded, `(budget - window) * heads`. Nothing beyond it on one rank is within it on all.

    Raises:
        InputError: numbers that are not ascending or not one a head.
    """
    num_heads = ranking.positions.shape[0]
    if len(heads) != num_heads or list(heads) != sorted(set(heads)) or (heads and heads[0] < 0):
        raise InputError(
            "heads",
            expected=f"the numbers of the {num_heads} heads that were ranked, ascending",
            got=repr(list(heads)),
            fix="Rank heads in ascending order of their numbers in the layer.",
        )
    own = ranking.pooled_heads[:max_entries]
    numbers = torch.tensor(list(heads), dtype=torch.int16, device="cpu").to(own.device, non_blocking=True)
    tiers = None if ranking.pooled_tiers is None else ranking.pooled_tiers[:max_entries]
    return Candidates(numbers[own.long()], ranking.pooled_scores[:max_entries], tiers)


def cut_to_pool(layers: Sequence[Candidates], max_entries: int) -> list[Candidates]:
    """Cut the candidates of all of a rank's layers to those that can win where all layers compete (rule `pool`).

    `candidates` cuts layer by layer; this leaves `max_entries` in all layers together, so less is sent.

    Args:
        layers: `candidates` of each layer, in the order of the layers.
        max_entries: what the sequence keeps in all heads of all layers, windows excluded.
    """
    if not layers:
        return []
    tiers = torch.cat([layer.tiers_or_zeros for layer in layers])
    best = best_entries(torch.cat([layer.scores for layer in layers]), tiers, max_entries)
    marks = torch.split(best, [len(layer.heads) for layer in layers])
    return [layer.at(mark) for layer, mark in zip(layers, marks, strict=True)]


def merge_candidates(parts: Sequence[Candidates], max_entries: int | None = None) -> Candidates:
    """Merge the candidates of all ranks into the order of the layer: tier, higher score, lower head, earlier position.

    Args:
        parts: `candidates` of each rank, on one device; no head on two of them.
        max_entries: as for `candidates`; None to return all.

    Raises:
        InputError: no parts, tiers in some of them only, or a head in two (looked at on the CPU only).
    """
    _require_parts(parts)
    tiers = None if parts[0].tiers is None else torch.cat([part.tiers_or_zeros for part in parts])
    joined = Candidates(torch.cat([part.heads for part in parts]), torch.cat([part.scores for part in parts]), tiers)
    by_head = joined.at(grouped_order(joined.heads))  # equal scores of a head stay in the order of their positions
    return by_head.at(best_first_order(by_head.scores, by_head.tiers)[:max_entries])


def _require_parts(parts: Sequence[Candidates]) -> None:
    if not parts or len({part.tiers is None for part in parts}) > 1:
        raise InputError(
            "parts",
            expected="candidates of one or more ranks, all with tiers or none",
            got=", ".join("none" if part.tiers is None else "tiers" for part in parts) or "no parts",
            fix="Rank with the same policy and `min_entries_per_head` on every rank.",
        )
    if all(part.heads.device.type == "cpu" for part in parts):
        held = [head for part in parts for head in torch.unique(part.heads).tolist()]
        if len(held) > len(set(held)):
            raise InputError(
                "parts",
                expected="each head on one rank",
                got=f"heads {sorted({head for head in held if held.count(head) > 1})} on several",
                fix="Give a head that several ranks hold to one of them.",
            )
