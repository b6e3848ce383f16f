"""Reference implementation of the trained gates: KVzap's surrogates and Fast KVzip's gate, for one token."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lavakv.scoring.naive.window import Rows


def linear_naive(vector: Sequence[float], weight: Rows, bias: Sequence[float]) -> list[float]:
    """`W x + b`, `[outputs]`."""
    return [
        math.fsum([*(w * x for w, x in zip(row, vector, strict=True)), b]) for row, b in zip(weight, bias, strict=True)
    ]


def gelu_naive(number: float) -> float:
    """`x` times the normal distribution up to it."""
    return number * 0.5 * (1 + math.erf(number / math.sqrt(2)))


def rms_norm_naive(vector: Sequence[float], weight: Sequence[float]) -> list[float]:
    """Brought to a root mean square of one, times a weight."""
    scale = math.sqrt(math.fsum(x * x for x in vector) / len(vector) + 1e-6)
    return [x / scale * w for x, w in zip(vector, weight, strict=True)]


def fast_kvzip_naive(queries: Rows, key: Sequence[float], base_keys: Rows, bias: Sequence[float]) -> float:
    """Mean over the group's normed queries of the share of the token's own key against the learned ones.

    Args:
        queries: `[group][dim]`.
        key: `[dim]`, normed.
        base_keys: `[sinks][dim]`.
        bias: `[group]`, added to the own logit.
    """
    shares = []
    for query, more in zip(queries, bias, strict=True):
        own = math.fsum(q * k for q, k in zip(query, key, strict=True)) / math.sqrt(len(query)) + more
        others = [
            math.fsum(q * k for q, k in zip(query, base, strict=True)) / math.sqrt(len(query)) for base in base_keys
        ]
        shares.append(1 / (1 + math.fsum(math.exp(other - own) for other in others)))
    return math.fsum(shares) / len(shares)
