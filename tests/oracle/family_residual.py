"""Score of `residual`: what the residual stream would lose with an entry, every difference written out."""

from __future__ import annotations

import torch

from tests.oracle.family_view import Ranking, View

UNSEEN_SHARE = 0.003
MIN_REST = 2.0**-10


def residual(view: View, keep: int) -> Ranking:
    """Root of the squared changes of the stream, over the window's rows and a KV head's query heads."""
    return Ranking([squares(view, head).sqrt().tolist() for head in view.heads])


def squares(view: View, head: int) -> torch.Tensor:
    """Squares of a KV head's scores, `[evictable]`."""
    total = torch.zeros(view.num_evictable, dtype=view.dtype)
    for query in view.queries_of(head):
        known, unseen = _changes(view, head, query)
        total = total + known + UNSEEN_SHARE / len(view.all_values[head]) * unseen
    return total


def _changes(view: View, head: int, query: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the window's rows would lose with each entry, and what rows that attend elsewhere would."""
    weights, expected = row_weights(view), expected_attention(view.whole[query], view.num_evictable)
    known = torch.zeros(view.num_evictable, dtype=view.dtype)
    unseen = torch.zeros_like(known)
    for row in range(view.window):
        distances = _distances(view, head, query, row)
        share = expected[row, : view.num_evictable]
        known += weights[row] * (share / (1 - share).clamp(min=MIN_REST)).square() * distances
        unseen += weights[row] * distances
    return known, surprise(view.seen[query]) * unseen


def _distances(view: View, head: int, query: int, row: int) -> torch.Tensor:
    """Squared length, behind the output projection, of each evictable value less the row's attention output."""
    output = (view.whole[query][row][:, None] * view.all_values[head]).sum(dim=0)
    return ((view.values[head] - output) @ view.to_stream(query)).square().sum(dim=1)


def row_weights(view: View) -> torch.Tensor:
    """Later rows count more; each is measured against its own stream."""
    places = torch.arange(1, view.window + 1, dtype=view.dtype)
    return places / places.sum() / view.stream_norms.square()


def expected_attention(whole: torch.Tensor, num_evictable: int) -> torch.Tensor:
    """The rows `[w, N]`, each mixed with a flatter one of the same sum; the more so, the more attention moves."""
    roots = whole.pow(0.25)
    flat = roots / roots.sum(dim=1, keepdim=True) * whole.sum(dim=1, keepdim=True)
    share = drift(whole[:, :num_evictable])
    return (1 - share) * whole + share * flat


def drift(seen: torch.Tensor) -> float:
    """How far attention moves from the first half of the rows to the second, 0 to 1."""
    half = len(seen) // 2
    if half == 0:
        return 1.0
    moved = 0.5 * (seen[:half].mean(dim=0) - seen[half:].mean(dim=0)).abs().sum()
    return min(1.0, 2 * moved.item())


def surprise(seen: torch.Tensor) -> torch.Tensor:
    """Mean over the rows of the squares by which one exceeds the mean of all others."""
    beyond = []
    for row in range(len(seen)):
        others = torch.cat([seen[:row], seen[row + 1 :]]).sum(dim=0) / max(len(seen) - 1, 1)
        beyond.append((seen[row] - others).clamp(min=0).square().sum())
    return torch.stack(beyond).mean()
