"""Reference implementation of Compactor's score."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lavakv.scoring.naive.rotation import unrotated_naive
from lavakv.scoring.naive.tiers import hashed_noise_naive
from lavakv.scoring.naive.window import NaiveWindow, Rows

FIRST, LAST, CHUNK, SKETCH = 8, 4, 256, 48


def compactor_score_naive(window: NaiveWindow) -> list[list[float]]:
    """Reference implementation of `compactor_score` for the entries between the first 8 and the last 4."""
    assert window.tokens_per_head is not None
    part = 1 - window.tokens_per_head / len(window.keys[0])
    leverage = standardized_naive([key_leverage_naive(window, head) for head in range(len(window.keys))])
    attended = standardized_naive([attended_naive(window, head) for head in range(len(window.keys))])
    return [[max(part, 0) * x + y for x, y in zip(*pair, strict=True)] for pair in zip(leverage, attended, strict=True)]


def gaussian_sketch_naive(head_dim: int) -> list[list[float]]:
    """Reference implementation of `gaussian_sketch`."""
    return [[_normal(row, column) / math.sqrt(SKETCH) for column in range(SKETCH)] for row in range(head_dim)]


def _normal(row: int, column: int) -> float:
    radius, turn = (hashed_noise_naive((part, row, column)) for part in (0, 1))
    return math.sqrt(-2 * math.log(1 - radius)) * math.cos(2 * math.pi * turn)


def key_leverage_naive(window: NaiveWindow, head: int) -> list[float]:
    """Of the keys between the ends before their rotation, sketched and centred."""
    assert window.rotation is not None
    cos, sin, _ = window.rotation
    rows = list(zip(window.keys[head], cos, sin, strict=True))[FIRST:-LAST]
    keys, sketch = [unrotated_naive(*row) for row in rows], list(zip(*gaussian_sketch_naive(len(cos[0])), strict=True))
    sketched = [[math.fsum(x * y for x, y in zip(key, column, strict=True)) for column in sketch] for key in keys]
    means = [math.fsum(column) / len(sketched) for column in zip(*sketched, strict=True)]
    centred = [[x - mean for x, mean in zip(row, means, strict=True)] for row in sketched]
    columns = list(zip(*centred, strict=True))
    gram = [[math.fsum(x * y for x, y in zip(one, other, strict=True)) for other in columns] for one in columns]
    for i in range(SKETCH):
        gram[i][i] += 0.01
    return [math.fsum(x * y for x, y in zip(row, _solved(gram, row), strict=True)) for row in centred]


def _solved(matrix: Rows, right: Sequence[float]) -> list[float]:
    """Gaussian elimination of a positive definite matrix."""
    rows = [[*row, x] for row, x in zip(matrix, right, strict=True)]
    for i, pivot in enumerate(rows):
        for row in rows[i + 1 :]:
            factor = row[i] / pivot[i]
            row[i:] = [x - factor * y for x, y in zip(row[i:], pivot[i:], strict=True)]
    found: list[float] = []
    for i in reversed(range(len(rows))):
        known = math.fsum(x * y for x, y in zip(rows[i][i + 1 : -1], found, strict=True))
        found.insert(0, (rows[i][-1] - known) / rows[i][i])
    return found


def attended_naive(window: NaiveWindow, head: int) -> list[float]:
    """Of the entries between the ends, with the mean of each and its neighbours taken."""
    assert window.prompt_queries is not None
    keys, values = (of_heads[head][FIRST:-LAST] for of_heads in (window.keys, window.values))
    received = [0.0] * len(keys)
    for start in range(0, len(keys), CHUNK):
        chunk = range(start, min(start + CHUNK, len(keys)))
        for query_head in window.group(head):
            rows = window.prompt_queries[query_head][FIRST:-LAST]
            for row in chunk:
                for place, paid in zip(chunk, _paid(rows[row], [keys[place] for place in chunk]), strict=True):
                    received[place] += paid / len(window.group(head))
        for place in chunk:
            received[place] += 1 - len(chunk) / CHUNK
    weighted = [x * math.sqrt(math.fsum(y * y for y in value)) for x, value in zip(received, values, strict=True)]
    return [math.fsum(weighted[max(i - 1, 0) : i + 2]) / 3 for i in range(len(weighted))]


def _paid(query: Sequence[float], keys: Rows) -> list[float]:
    logits = [math.fsum(x * y for x, y in zip(query, key, strict=True)) for key in keys]
    powers = [math.exp(logit - max(logits)) for logit in logits]
    return [power / math.fsum(powers) for power in powers]


def standardized_naive(scores: Rows) -> list[list[float]]:
    """Reference implementation of `standardized`."""
    flat = [score for row in scores for score in row]
    mean = math.fsum(flat) / len(flat)
    spread = math.sqrt(math.fsum((score - mean) ** 2 for score in flat) / max(len(flat) - 1, 1))
    return [[(score - mean) / max(spread, 1e-6) for score in row] for row in scores]
