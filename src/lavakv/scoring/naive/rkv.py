"""Reference implementation of R-KV's score."""

from __future__ import annotations

import math

from lavakv.scoring.naive.window import NaiveWindow, Rows, max_pool_naive


def rkv_score_naive(window: NaiveWindow) -> list[list[float]]:
    """Reference implementation of `rkv_score`."""
    scores = []
    for head, keys in enumerate(window.keys):
        importance = max_pool_naive(importance_naive(window, head), 7)
        scores.append([0.1 * x - 0.9 * y for x, y in zip(importance, redundancy_naive(keys), strict=False)])
    return scores


def importance_naive(window: NaiveWindow, head: int) -> list[float]:
    """Mean over the rows of the softmax over the candidates of the largest logit of the head's query heads, `[n]`."""
    totals = [0.0] * window.num_evictable
    for row in range(len(window.queries[0])):
        logits = [max(_logit(window, query, row, i) for query in window.group(head)) for i in range(len(totals))]
        largest = max(logits, default=-math.inf)
        if largest == -math.inf:
            continue
        shares = [math.exp(logit - largest) for logit in logits]
        whole = math.fsum(shares)
        totals = [total + share / whole for total, share in zip(totals, shares, strict=True)]
    return [total / len(window.queries[0]) for total in totals]


def _logit(window: NaiveWindow, query_head: int, row: int, position: int) -> float:
    key = window.keys[query_head // (len(window.queries) // len(window.keys))][position]
    logit = window.scaling * math.fsum(q * k for q, k in zip(window.queries[query_head][row], key, strict=True))
    if window.softcap is not None:
        logit = window.softcap * math.tanh(logit / window.softcap)
    return logit if window.visible is None or window.visible[row][position] else -math.inf


def cosines_naive(keys: Rows) -> list[list[float]]:
    """Cosines of all pairs of keys of a head, 0 of a key with itself."""
    lengths = [math.sqrt(math.fsum(x * x for x in key)) + 1e-8 for key in keys]
    units = [[x / length for x in key] for key, length in zip(keys, lengths, strict=True)]
    cosines = [[math.fsum(x * y for x, y in zip(one, other, strict=True)) for other in units] for one in units]
    for i, row in enumerate(cosines):
        row[i] = 0.0
    return cosines


def redundancy_naive(keys: Rows) -> list[float]:
    """Reference implementation of `redundancy` of all entries of a head."""
    cosines = cosines_naive(keys)
    for row in cosines:
        alike = [place for place, cosine in enumerate(row) if cosine > 0.5]
        if alike:
            row[alike[-1]] = 0.0
    means = [math.fsum(column) / len(keys) for column in zip(*cosines, strict=True)]
    whole = math.fsum(math.exp(mean) for mean in means)
    return [math.exp(mean) / whole for mean in means]
