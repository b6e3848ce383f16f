"""Reference implementation of the scores that compare an entry with those around it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lavakv.scoring.naive.window import NaiveWindow, Rows


def lag_relative_spread_naive(window: NaiveWindow, num_first: int, lag_size: int) -> list[list[list[float]]]:
    """Reference implementation of `lag_relative_spread`, `[kv_heads][partitions][lag_size]`.

    Args:
        window: its places hold one entry each.
        num_first: first entries, which belong to no partition.
        lag_size: entries of a partition.
    """
    spreads = []
    for head in range(len(window.keys)):
        parts = [_relative_parts(vectors[head][num_first:], lag_size) for vectors in (window.keys, window.values)]
        spreads.append([[k + v for k, v in zip(*pair, strict=True)] for pair in zip(*parts, strict=True)])
    return spreads


def _relative_parts(vectors: Rows, lag_size: int) -> list[list[float]]:
    """The softmax of the deviations of each partition that has a whole one behind it."""
    starts = range(0, len(vectors) - 2 * lag_size + 1, lag_size)
    softmaxes = []
    for start in starts:
        middle = start + lag_size
        reference = list(zip(*vectors[middle : middle + lag_size], strict=True))
        deviations = [_deviation(relative_naive(vector, reference)) for vector in vectors[start:middle]]
        largest = max(deviations)
        powers = [math.exp(deviation - largest) for deviation in deviations]
        softmaxes.append([power / math.fsum(powers) for power in powers])
    return softmaxes


def relative_naive(vector: Sequence[float], reference: Sequence[Sequence[float]]) -> list[float]:
    """A vector's channels within the range of the reference's, `[channels][entries]`; 0 where that is a point."""
    ranges = [(min(channel), max(channel)) for channel in reference]
    return [(x - low) / (high - low) if high > low else 0.0 for x, (low, high) in zip(vector, ranges, strict=True)]


def _deviation(numbers: Sequence[float]) -> float:
    """Unbiased standard deviation, 0 of a single number."""
    mean = math.fsum(numbers) / len(numbers)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / max(len(numbers) - 1, 1))


def lagkv_order_naive(spread: Rows, num_first: int, num_candidates: int, lag_size: int) -> list[int]:
    """A head's candidates in the order in which `lagkv_score` keeps them, ties to the earlier one.

    Args:
        spread: `[partitions][lag_size]`, those with a whole partition behind them.
        num_first: candidates at the first positions.
        num_candidates: candidates of the head.
        lag_size: entries of a partition.
    """
    unscored = num_first + len(spread) * lag_size
    ranked = []
    for part, row in enumerate(spread):
        for rank, number in enumerate(sorted(range(lag_size), key=lambda i: (-row[i], i))):
            ranked.append((rank, num_first + part * lag_size + number))
    order = [*range(num_first), *reversed(range(unscored, num_candidates)), *(place for _, place in sorted(ranked))]
    return [place for place in order if place < num_candidates]


def curdkv_score_naive(window: NaiveWindow, num_first: int) -> list[list[float]]:
    """Reference implementation of `curdkv_score`; the first `num_first` candidates are at the first positions."""
    scores = []
    for keys, values in zip(window.keys, window.values, strict=True):
        leverage = [k * v for k, v in zip(_local_leverage(keys), _local_leverage(values), strict=True)]
        total = math.fsum(leverage) or 1.0
        scores.append([1.0 if i < num_first else leverage[i] / total for i in range(window.num_evictable)])
    return scores


def _local_leverage(vectors: Rows) -> list[float]:
    squares = [math.fsum(x * x for x in vector) for vector in vectors]
    totals = [math.fsum(squares[start : start + 16]) or 1.0 for start in range(0, len(squares), 16)]
    return [square / totals[i // 16] for i, square in enumerate(squares)]


def chunk_means_naive(scores: Rows, positions: Sequence[Sequence[int]], chunk_size: int) -> list[list[float]]:
    """Reference implementation of `ChunkedScore`: means over all heads of the candidates of a chunk, `[heads][held]`.

    Args:
        scores: of each head's candidates.
        positions: their original positions.
        chunk_size: tokens of a chunk.
    """
    chunks: dict[int, list[float]] = {}
    for row, held in zip(scores, positions, strict=True):
        for score, position in zip(row, held, strict=True):
            chunks.setdefault(position // chunk_size, []).append(score)
    means = {chunk: math.fsum(members) / len(members) for chunk, members in chunks.items()}
    return [[means[position // chunk_size] for position in held] for held in positions]
