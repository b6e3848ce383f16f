"""Scores of `kvzip` and `kvzip+`: what the prompt's own tokens look at when they come once more."""

from __future__ import annotations

from tests.oracle.family_view import Ranking, View


def kvzip(view: View, keep: int) -> Ranking:
    """The largest attention of any repeated token and query head; the first four positions before all, in turn."""
    return _ranked([view.repeated[0, list(view.queries_of(head))].amax(dim=0).tolist() for head in view.heads])


def kvzip_plus(view: View, keep: int) -> Ranking:
    """The largest attention over the stream's length, times the length of what the value becomes."""
    scores = []
    for head in view.heads:
        lengths = {
            query: (view.values[head] @ view.projection_of(query)).square().sum(dim=1).sqrt()
            for query in view.queries_of(head)
        }
        parts = [view.repeated[1, query] * length for query, length in lengths.items()]
        scores.append([max(column) for column in zip(*(part.tolist() for part in parts), strict=True)])
    return _ranked(scores)


def _ranked(scores: list[list[float]]) -> Ranking:
    return Ranking(
        [[2.0**64 * (4 - place) if place < 4 else score for place, score in enumerate(row)] for row in scores]
    )
