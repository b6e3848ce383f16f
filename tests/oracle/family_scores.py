"""Scores of the family that read attention, position or keys; each takes a view and `b - w` and gives a ranking."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from tests.oracle.family_view import Ranking, View


def max_pool(row: torch.Tensor, width: int = 7) -> torch.Tensor:
    """Largest of the neighbours of each position, of those that exist."""
    return pad(row, (width // 2, width // 2), value=float("-inf")).unfold(0, width, 1).amax(dim=1)


def mean_pool(row: torch.Tensor, width: int = 5) -> torch.Tensor:
    """Sum of the neighbours that exist, over the width."""
    return pad(row, (width // 2, width // 2)).unfold(0, width, 1).sum(dim=1) / width


def window_mean(view: View, query: int) -> torch.Tensor:
    """Mean attention of the window's rows to each evictable position."""
    return view.seen[query].sum(dim=0) / view.window


def group_mean(view: View, head: int, rows: list[torch.Tensor]) -> torch.Tensor:
    """Mean of rows, listed by query head, over the query heads of a KV head."""
    own = [rows[query] for query in view.queries_of(head)]
    return sum(own[1:], start=own[0]) / len(own)


def group_max(view: View, head: int, rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([rows[query] for query in view.queries_of(head)]).amax(dim=0)


def lava(view: View, keep: int) -> Ranking:
    pooled = [max_pool(window_mean(view, query)) for query in range(len(view.seen))]
    largest = view.values.abs().sum(dim=2).amax(dim=1)
    return Ranking([(largest[head] * group_max(view, head, pooled)).tolist() for head in view.heads])


def snapkv_rows(view: View) -> list[torch.Tensor]:
    """SnapKV's score by KV head."""
    pooled = [max_pool(window_mean(view, query)) for query in range(len(view.seen))]
    return [group_mean(view, head, pooled) for head in view.heads]


def snapkv(view: View, keep: int) -> Ranking:
    return Ranking([row.tolist() for row in snapkv_rows(view)])


def cake(view: View, keep: int) -> Ranking:
    pooled = []
    for query, rows in enumerate(view.seen):
        pooled.append(mean_pool(window_mean(view, query) + 200 * rows.var(dim=0, correction=1)))
    return Ranking([group_mean(view, head, pooled).tolist() for head in view.heads])


def vatp(view: View, keep: int) -> Ranking:
    ranked = []
    for head in view.heads:
        norms = view.values[head].abs().sum(dim=1)
        pooled = {query: max_pool(window_mean(view, query) * norms) for query in view.queries_of(head)}
        ranked.append(group_max(view, head, pooled).tolist())
    return Ranking(ranked)


def h2o(view: View, keep: int) -> Ranking:
    return Ranking([group_mean(view, head, view.received).tolist() for head in view.heads])


def tova(view: View, keep: int) -> Ranking:
    last = torch.stack([rows[-1] for rows in view.seen]).sum(dim=0) / len(view.seen)
    return Ranking([last.tolist() for _ in view.heads])


def streaming_llm(view: View, keep: int) -> Ranking:
    """The first four, the very first before all, then the latest."""
    places = range(view.num_evictable)
    row = [float(2 * view.num_evictable - place if place < 4 else place) for place in places]
    return Ranking([row for _ in view.heads])


def knorm(view: View, keep: int) -> Ranking:
    norms = view.keys.square().sum(dim=2).sqrt()
    return Ranking([(-norms[head, : view.num_evictable]).tolist() for head in view.heads])


def keydiff(view: View, keep: int) -> Ranking:
    ranked = []
    for keys in view.keys:
        directions = keys / keys.square().sum(dim=1, keepdim=True).sqrt()
        middle = directions.sum(dim=0) / len(keys)
        cosines = directions @ middle / middle.square().sum().sqrt()
        ranked.append((-cosines[: view.num_evictable]).tolist())
    return Ranking(ranked)
