"""Score of `residual-max`: the largest attention of any row, times the value's own length in the residual stream."""

from __future__ import annotations

import torch

from tests.oracle.family_outputs import worst_case
from tests.oracle.family_view import Ranking, View


def residual_max(view: View, keep: int) -> Ranking:
    """By the worst case and the root mean square, over query heads, of what the value becomes; all over the stream."""
    stream = view.stream_norms.square().mean().sqrt()
    ranked = []
    for head in view.heads:
        squares = [(view.values[head] @ view.to_stream(query)).square().sum(dim=1) for query in view.queries_of(head)]
        lengths = (sum(squares, torch.zeros_like(squares[0])) / len(squares)).sqrt()
        ranked.append((worst_case(view, head) * lengths / stream).tolist())
    return Ranking(ranked)
