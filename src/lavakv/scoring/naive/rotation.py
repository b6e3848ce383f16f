"""Reference implementation of the scores that look before the rotation."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lavakv.scoring.naive.window import NaiveWindow, Rows


def unrotated_naive(vector: Sequence[float], cos: Sequence[float], sin: Sequence[float]) -> list[float]:
    """A query or key before its rotation: each pair of channels turned back, any factor taken out."""
    half = len(vector) // 2
    pairs = [(vector[i], vector[i + half], cos[i], sin[i]) for i in range(half)]
    first = [(x * c + y * s) / (c * c + s * s) for x, y, c, s in pairs]
    return first + [(y * c - x * s) / (c * c + s * s) for x, y, c, s in pairs]


def mean_rotation_naive(window: NaiveWindow, num_ahead: int) -> list[list[float]]:
    """The mean over the next positions of the matrix that rotates a query, `[head_dim][head_dim]`."""
    assert window.rotation is not None
    cos, sin, frequencies = window.rotation
    half = len(frequencies)
    matrix = [[0.0] * (2 * half) for _ in range(2 * half)]
    for i, frequency in enumerate(frequencies):
        steps = [frequency * step for step in range(1, num_ahead + 1)]
        c = math.fsum(cos[-1][i] * math.cos(a) - sin[-1][i] * math.sin(a) for a in steps) / num_ahead
        s = math.fsum(sin[-1][i] * math.cos(a) + cos[-1][i] * math.sin(a) for a in steps) / num_ahead
        matrix[i][i] = matrix[i + half][i + half] = c
        matrix[i][i + half], matrix[i + half][i] = -s, s
    return matrix


def expected_queries_naive(window: NaiveWindow, query_head: int) -> tuple[list[float], list[list[float]]]:
    """Mean and covariance of the queries to come: those of the prompt but the first 4, turned by the mean rotation."""
    assert window.rotation is not None
    assert window.prompt_queries is not None
    cos, sin, _ = window.rotation
    rows = list(zip(window.prompt_queries[query_head], cos, sin, strict=True))[4:]
    queries = [unrotated_naive(*row) for row in rows]
    channels = range(len(queries[0]))
    mean = [math.fsum(query[i] for query in queries) / len(queries) for i in channels]
    spread = [[math.fsum((q[i] - mean[i]) * (q[j] - mean[j]) for q in queries) for j in channels] for i in channels]
    covariance = [[entry / len(queries) for entry in row] for row in spread]
    matrix = mean_rotation_naive(window, 512)
    turned = _times(_times(matrix, covariance), [list(column) for column in zip(*matrix, strict=True)])
    return [row[0] for row in _times(matrix, [[x] for x in mean])], turned


def expected_attention_score_naive(window: NaiveWindow) -> list[list[float]]:
    """Reference implementation of `expected_attention_score` behind the first 4 positions, `[kv_heads][n - 4]`."""
    scores = []
    for head, (keys, values) in enumerate(zip(window.keys, window.values, strict=True)):
        shares = [_expected_shares(window, query_head, keys) for query_head in window.group(head)]
        norms = [math.sqrt(math.fsum(x * x for x in value)) for value in values]
        means = [math.fsum(of_query[i] for of_query in shares) / len(shares) for i in range(len(keys) - 4)]
        behind = range(max(window.num_evictable - 4, 0))
        scores.append([(means[i] + 0.01) * norms[i + 4] for i in behind])
    return scores


def _expected_shares(window: NaiveWindow, query_head: int, keys: Rows) -> list[float]:
    """The softmax over all entries but the first 4."""
    mean, covariance = expected_queries_naive(window, query_head)
    logits = []
    for key in keys[4:]:
        linear = math.fsum(k * m for k, m in zip(key, mean, strict=True))
        products = (math.fsum(c * other for c, other in zip(row, key, strict=True)) for row in covariance)
        square = math.fsum(k * product for k, product in zip(key, products, strict=True))
        logits.append(window.scaling * linear + window.scaling**2 / 2 * square)
    largest = max(logits)
    powers = [math.exp(logit - largest) for logit in logits]
    return [power / math.fsum(powers) for power in powers]


def _times(one: Rows, other: Rows) -> list[list[float]]:
    columns = list(zip(*other, strict=True))
    return [[math.fsum(x * y for x, y in zip(row, column, strict=True)) for column in columns] for row in one]
