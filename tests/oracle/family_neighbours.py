"""Scores of the family that compare an entry with others: LagKV, CurDKV, ChunkKV, R-KV."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.oracle.family_scores import max_pool
from tests.oracle.family_view import Ranking, View

LARGE = 1e6  # beyond any rank and position


def lagkv(view: View, keep: int, first: int = 4, size: int = 128) -> Ranking:
    """Best first: the first four, the unscored end from the latest on, then by rank within the partition."""
    count, ranked = view.num_evictable, []
    for keys, values in zip(view.keys, view.all_values, strict=True):
        row = torch.arange(count, dtype=torch.float64) + LARGE
        row[:first] = 2 * LARGE
        for start in range(first, len(keys) - 2 * size + 1, size):
            middle, end = start + size, start + 2 * size
            told = sum(_spread(part[start:middle], part[middle:end]) for part in (keys, values))
            best = sorted(range(size), key=lambda place: (-told[place].item(), place))
            for rank, place in enumerate(best):
                if start + place < count:
                    row[start + place] = -rank
        ranked.append(row.tolist())
    return Ranking(ranked)


def _spread(part: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """`[tokens]` of two `[tokens, channels]`."""
    low, high = after.aminmax(dim=0)
    assert bool((high > low).all()), "a channel that does not vary"
    scaled = (part - low) / (high - low)
    centred = scaled - scaled.sum(dim=1, keepdim=True) / scaled.shape[1]
    return (centred.square().sum(dim=1) / (scaled.shape[1] - 1)).sqrt().softmax(dim=0)


def curdkv(view: View, keep: int) -> Ranking:
    """Leverage of key times value within blocks of 16; the first four before all."""
    ranked = []
    for keys, values in zip(view.keys, view.all_values, strict=True):
        product = _leverage(keys) * _leverage(values)
        row = product / product.sum()
        row[:4] = 1.0
        ranked.append(row[: view.num_evictable].tolist())
    return Ranking(ranked)


def _leverage(vectors: torch.Tensor) -> torch.Tensor:
    return torch.cat([_of_block(block) for block in vectors.split(16)])


def _of_block(block: torch.Tensor) -> torch.Tensor:
    lengths = block.square().sum(dim=1)
    return lengths / lengths.sum()


def rkv(view: View, keep: int) -> Ranking:
    """A tenth of the attention within the candidates, less nine tenths of the likeness to all other entries."""
    ranked = []
    for head, keys in enumerate(view.keys):
        paid = torch.stack([_candidate_logits(view, query) for query in view.queries_of(head)]).amax(dim=0)
        attended = max_pool(paid.softmax(dim=1).sum(dim=0) / view.window)
        ranked.append((0.1 * attended - 0.9 * _redundancy(keys)[: view.num_evictable]).tolist())
    return Ranking(ranked)


def _candidate_logits(view: View, query: int) -> torch.Tensor:
    """Logits of the window's rows and the evictable positions, `[window, evictable]`."""
    own = view.capture.queries[view.sequence, query, -view.window :].to(view.dtype)
    products = own @ view.keys[query // len(view.queries_of(0)), : view.num_evictable].T * view.capture.scaling
    cap = view.capture.softcap
    return cap * torch.tanh(products / cap) if cap else products


def _redundancy(keys: torch.Tensor) -> torch.Tensor:
    directions = keys / keys.square().sum(dim=1, keepdim=True).sqrt()
    cosines = directions @ directions.T
    for place, row in enumerate(cosines):
        row[place] = 0.0
        alike = (row > 0.5).nonzero().flatten().tolist()
        if alike:
            row[alike[-1]] = 0.0
    return (cosines.sum(dim=0) / len(keys)).softmax(dim=0)


def in_chunks(score: Callable[[View, int], Ranking], size: int = 20) -> Callable[[View, int], Ranking]:
    """ChunkKV's wrapper: each entry gets the mean of all heads' scores over its chunk, rounded to the view's format."""

    def ranking(view: View, keep: int) -> Ranking:
        inner = score(view, keep)
        assert not any(inner.protected)
        everyone = torch.tensor(inner.scores, dtype=torch.float64).sum(dim=0)
        row = [part.sum() / (len(part) * len(inner.scores)) for part in everyone.split(size) for _ in part]
        return Ranking([torch.stack(row).to(view.dtype).tolist() for _ in view.heads])

    return ranking
