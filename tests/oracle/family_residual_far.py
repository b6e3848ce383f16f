"""Score of `residual-far`: `residual`'s, and what rows far behind an entry would lose with it."""

from __future__ import annotations

import torch

from tests.oracle.family_residual import MIN_REST, row_weights, squares
from tests.oracle.family_view import Ranking, View

FAR_SHARE = 0.1
MOST_ROWS = 128
NEAR = 128


def residual_far(view: View, keep: int) -> Ranking:
    """Root of `residual`'s squares plus a share of the mean squared changes of rows far behind."""
    ranked = []
    for head in view.heads:
        both = squares(view, head) + FAR_SHARE * far_squares(view, head)
        ranked.append(both.sqrt().tolist())
    return Ranking(ranked)


def far_squares(view: View, head: int) -> torch.Tensor:
    """Mean over the rows far behind each evictable entry of the squared changes, over the window's streams."""
    total = torch.zeros(view.num_evictable, dtype=view.dtype)
    for query in view.queries_of(head):
        total += _far_changes(view, head, query)
    return row_weights(view).sum() * total / divisors(view.num_evictable).to(view.dtype)


def rows_asked(num_evictable: int) -> list[int]:
    """Positions of the rows, ascending, evenly over the last three quarters of the evictable ones."""
    first = num_evictable // 4
    num_places = num_evictable - first
    num_rows = min(MOST_ROWS, num_places)
    return [first + (turn + 1) * num_places // num_rows - 1 for turn in range(num_rows)]


def divisors(num_evictable: int) -> torch.Tensor:
    """By evictable position: the number of rows far behind it, or an eighth of all rows if that is more; float64."""
    rows = rows_asked(num_evictable)
    counts = [sum(row - place > NEAR for row in rows) for place in range(num_evictable)]
    return torch.tensor([max(count, len(rows) / 8) for count in counts], dtype=torch.float64)


def _far_changes(view: View, head: int, query: int) -> torch.Tensor:
    """Sum over the rows of the squared change that each entry far before a row makes to it, in one query head."""
    places = rows_asked(view.num_evictable)
    rows, turned = view.rows_at(query, places), _turned(view.to_stream(query))
    outputs = rows @ view.all_values[head] @ turned
    values = view.values[head] @ turned
    total = torch.zeros(view.num_evictable, dtype=view.dtype)
    for row, output, place in zip(rows, outputs, places, strict=True):
        num_far = max(place - NEAR, 0)  # the entries i with place - i > NEAR
        share = row[:num_far]
        changes = (values[:num_far] - output).square().sum(dim=1)
        total[:num_far] += (share / (1 - share).clamp(min=MIN_REST)).square() * changes
    return total


def _turned(projection: torch.Tensor) -> torch.Tensor:
    """The projection without the orthonormal rows that end it: lengths behind it are the same, in fewer dimensions."""
    return torch.linalg.qr(projection.T).R.T
