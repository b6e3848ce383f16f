"""Scores of the family that look at values behind the output projection and keep some entries outright."""

from __future__ import annotations

import math

import torch

from tests.oracle.family_scores import group_max, group_mean, mean_pool, snapkv_rows, window_mean
from tests.oracle.family_view import Ranking, View


def criticalkv(view: View, keep: int) -> Ranking:
    """Half of a head's mean part outright by SnapKV's score, the rest by that score times the value's output norm."""
    rows = snapkv_rows(view)
    by_attention = Ranking([row.tolist() for row in rows])
    outright = [set(by_attention.best_first(head)[: keep // 2]) for head in view.heads]
    weighted = [((row + 1e-4) * norms).tolist() for row, norms in zip(rows, view.output_norms, strict=True)]
    return Ranking(weighted, outright)


def defensivekv(view: View, keep: int) -> Ranking:
    """The worst case over the window times the value's output norm; what carries most of the attention outright."""
    ranked = []
    for head in view.heads:
        norms = view.output_norms[head]
        ranked.append((worst_case(view, head) * (norms / norms.sum())).tolist())
    return Ranking(ranked, [_carriers(view, head, keep) for head in view.heads])


def laprox(view: View, keep: int) -> Ranking:
    """Length of an entry's column of attention, smoothed, times that of its projected value; a layer's sum is one."""
    products = []
    for head in view.heads:
        columns = [mean_pool(view.seen[query].square().sum(dim=0).sqrt(), 7) for query in view.queries_of(head)]
        lengths = [
            (view.values[head] @ view.projection_of(query)).square().sum(dim=1).sqrt()
            for query in view.queries_of(head)
        ]
        group = [column * length for column, length in zip(columns, lengths, strict=True)]
        products.append(torch.stack(group).mean(dim=0))
    layer = torch.stack(products)
    return Ranking((layer / layer.sum()).tolist())


def worst_case(view: View, head: int) -> torch.Tensor:
    """Largest over the window's rows and the head's queries, at least its own mean, `[evictable]`."""
    worst = group_max(view, head, {query: _worst_row(view, query) for query in view.queries_of(head)})
    return worst.clamp(min=(worst.sum() / len(worst)).item())


def _worst_row(view: View, query: int) -> torch.Tensor:
    """Largest over the window's rows, each pooled and brought back to its sum."""
    pooled = []
    for row in view.seen[query]:
        blurred = mean_pool(row)
        pooled.append(blurred * (row.sum() / blurred.sum()) if row.any() else row)  # all of it may lie in the window
    return torch.stack(pooled).amax(dim=0)


def _carriers(view: View, head: int, keep: int) -> set[int]:
    """Entries that make up the first 90 % of a head's mean attention, less what the window's own columns hold."""
    means = group_mean(view, head, [window_mean(view, query) for query in range(len(view.seen))]).tolist()
    group = view.queries_of(head)
    own = [view.whole[query][:, view.num_evictable :].flatten().tolist() for query in group]
    wanted = 0.9 - math.fsum(share for shares in own for share in shares) / (view.window * len(group))
    carriers: list[int] = []
    for place in Ranking([means]).best_first(0)[:keep]:
        if math.fsum(means[before] for before in carriers) >= wanted:
            break
        carriers.append(place)
    return set(carriers)
