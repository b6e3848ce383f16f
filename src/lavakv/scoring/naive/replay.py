"""Reference implementation of KVzip, KVzip+ and the attention of a replay's rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lavakv.scoring.naive.window import Rows

FIRST_SCORE = 2.0**64


class NaiveReplay(NamedTuple):
    """The rows of one chunk in one layer, behind a whole prompt; query heads of one KV head stand together.

    Attributes:
        queries: `[query_heads][rows][head_dim]`.
        prompt_keys: `[kv_heads][N][head_dim]`.
        keys: `[kv_heads][rows][head_dim]`, of the rows.
        start: first position of the chunk.
        stop: position after its last one.
        scaling: factor on query-key products.
        softcap: `c` in `c * tanh(x / c)`, or None.
        sinks: `[query_heads]` attention-sink logits, or None.
        norms: `[rows]`, of the residual stream.
    """

    queries: Sequence[Rows]
    prompt_keys: Sequence[Rows]
    keys: Sequence[Rows]
    start: int
    stop: int
    scaling: float
    softcap: float | None
    sinks: Sequence[float] | None
    norms: Sequence[float]

    def attention(self, query_head: int, row: int) -> list[float]:
        """What a row pays to each position of the chunk; it sees the first four, the chunk and rows so far."""
        head = query_head // (len(self.queries) // len(self.keys))
        seen = [*range(min(4, self.start)), *range(self.start, self.stop)]
        keys = [*(self.prompt_keys[head][position] for position in seen), *self.keys[head][: row + 1]]
        query = self.queries[query_head][row]
        logits = [self.scaling * math.fsum(x * y for x, y in zip(query, key, strict=True)) for key in keys]
        if self.softcap is not None:
            logits = [self.softcap * math.tanh(logit / self.softcap) for logit in logits]
        sink = [] if self.sinks is None else [self.sinks[query_head]]
        largest = max([*logits, *sink])
        total = math.fsum(math.exp(logit - largest) for logit in [*logits, *sink])
        shares = [math.exp(logit - largest) / total for logit in logits]
        return shares[min(4, self.start) : len(seen)]

    def maxima(self, relative: bool) -> list[list[float]]:
        """`[query_heads][stop - start]` over the rows, each divided by its norm if `relative`; not where that is 0."""
        found = []
        for query_head in range(len(self.queries)):
            best = [0.0] * (self.stop - self.start)
            for row, norm in enumerate(self.norms):
                scale = norm if relative else 1.0
                if scale > 0:
                    paid = [share / scale for share in self.attention(query_head, row)]
                    best = [max(pair) for pair in zip(best, paid, strict=True)]
            found.append(best)
        return found


def kvzip_naive(attention: Sequence[Rows]) -> list[list[float]]:
    """Scores `[kv_heads][n]` from maxima `[kv_heads][group][n]`."""
    return [
        [_score(place, max(column)) for place, column in enumerate(zip(*group, strict=True))] for group in attention
    ]


def kvzip_plus_naive(per_norm: Sequence[Rows], lengths: Sequence[Rows]) -> list[list[float]]:
    """The same from maxima per norm, with `||V[i] W_O,q||_2`, `[kv_heads][group][n]`."""
    weighed = [
        [[one * length for one, length in zip(*pair, strict=True)] for pair in zip(paid, known, strict=True)]
        for paid, known in zip(per_norm, lengths, strict=True)
    ]
    return kvzip_naive(weighed)


def _score(place: int, largest: float) -> float:
    return FIRST_SCORE * (4 - place) if place < 4 else largest
