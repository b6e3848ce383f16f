"""The LAVa method as `method.md` words it, written apart from lavakv: slow, plain, all layers known beforehand."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction

import torch

from tests.oracle.forwards import Capture, Prompt, capture_prompt, masked_greedy

__all__ = [
    "Capture",
    "Prompt",
    "attention_rows",
    "capture_prompt",
    "divide",
    "entropy",
    "masked_greedy",
    "scores",
    "survivors",
]


def survivors(
    captures: dict[int, Capture],
    budget: int,
    window: int = 32,
    layer_rule: str = "entropy",
    head_rule: str = "pooled",
    floor_share: float = 0.2,
    sequence: int = 0,
    num_padding: int = 0,
) -> dict[int, list[list[int]]]:
    """Kept positions, ascending, of each KV head of each layer; position 0 is the first token after the padding.

    Args:
        captures: what each layer saw, by layer index.
        budget: mean entries a KV head keeps, window included.
        window: last tokens, always kept, whose queries score.
        layer_rule: `entropy` or `equal`.
        head_rule: `pooled` or `equal`.
        floor_share: the part of a layer's total that pooled heads share equally.
        sequence, num_padding: row of the batch, and its columns of padding on the left.
    """
    length = next(iter(captures.values())).keys.shape[2] - num_padding
    heads = {layer: capture.keys.shape[1] for layer, capture in captures.items()}
    if length <= budget:
        return {layer: [list(range(length)) for _ in range(heads[layer])] for layer in captures}
    scored = {layer: scores(capture, window, sequence, num_padding) for layer, capture in captures.items()}
    weights = [entropy(rows) if layer_rule == "entropy" else 1.0 for rows in scored.values()]
    capacities = [len(rows) * len(rows[0]) for rows in scored.values()]
    totals = divide((budget - window) * sum(heads.values()), weights, capacities)
    kept, recent = {}, list(range(length - window, length))
    for (layer, rows), total in zip(scored.items(), totals, strict=True):
        counts = _head_counts(rows, total, head_rule, floor_share)
        kept[layer] = [sorted(_best_first(row)[:count]) + recent for row, count in zip(rows, counts, strict=True)]
    return kept


def scores(capture: Capture, window: int, sequence: int = 0, num_padding: int = 0) -> list[list[float]]:
    """Scores of the evictable positions, a list a KV head, computed in float32."""
    keys = capture.keys[sequence, :, num_padding:].float()
    values = capture.values[sequence, :, num_padding:].float()
    queries = capture.queries[sequence, :, -window:].float()
    evictable = keys.shape[1] - window
    group = len(queries) // len(keys)
    rows = []
    for head in range(len(keys)):
        pooled = []
        for query in range(head * group, (head + 1) * group):
            sink = None if capture.sinks is None else capture.sinks[query].float()
            attention = attention_rows(queries[query], keys[head], capture.scaling, capture.softcap, sink)
            mean = attention[:, :evictable].sum(dim=0) / window
            neighbours = torch.nn.functional.pad(mean, (3, 3), value=float("-inf")).unfold(0, 7, 1)
            pooled.append(neighbours.amax(dim=1))
        norm = values[head, :evictable].abs().sum(dim=1).max()
        rows.append((norm * torch.stack(pooled).amax(dim=0)).tolist())
    return rows


def attention_rows(queries, keys, scaling: float, softcap: float | None, sink: torch.Tensor | None) -> torch.Tensor:
    """Softmax rows of one query head: the last `len(queries)` tokens over all tokens up to themselves."""
    logits = queries @ keys.T * scaling
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    first = len(keys) - len(queries)
    for row in range(len(queries)):
        logits[row, first + row + 1 :] = float("-inf")
    if sink is not None:
        logits = torch.cat([logits, sink.expand(len(logits), 1)], dim=1)
    return logits.softmax(dim=1)[:, : len(keys)]


def entropy(rows: Sequence[Sequence[float]]) -> float:
    """Entropy of a layer's scores over that of an even spread, all heads together, in float64."""
    entries = [score for row in rows for score in row]
    whole = math.fsum(entries)
    shares = [score / whole for score in entries if score > 0]
    return -math.fsum(share * math.log(share) for share in shares) / math.log(len(entries))


def _head_counts(rows: list[list[float]], total: int, head_rule: str, floor_share: float) -> list[int]:
    """How many evictable entries each head of a layer keeps."""
    capacities = [len(row) for row in rows]
    if head_rule == "equal":
        return divide(total, [1] * len(rows), capacities)
    everyone = ((-score, head, place) for head, row in enumerate(rows) for place, score in enumerate(row))
    winners = [head for _, head, _ in heapq.nsmallest(total, everyone)]
    share = Fraction(str(floor_share))
    floor = share * Fraction(total, len(rows))
    return divide(total, [(1 - share) * winners.count(head) + floor for head in range(len(rows))], capacities)


def _best_first(row: Sequence[float]) -> list[int]:
    """Positions by falling score, equal ones from the left."""
    return sorted(range(len(row)), key=lambda place: (-row[place], place))


def divide(total: int, weights: Sequence[float | Fraction], capacities: Sequence[int]) -> list[int]:
    """Seats given one by one to the largest `weight / (2 · seats + 1)` that has room, in exact arithmetic."""
    exact = [Fraction(weight) for weight in weights]
    if not any(exact):
        exact = [Fraction(1)] * len(exact)
    seats = [0] * len(exact)
    queue = [(-weight, index) for index, weight in enumerate(exact) if capacities[index]]
    heapq.heapify(queue)
    for _ in range(total):
        _, index = heapq.heappop(queue)
        seats[index] += 1
        if seats[index] < capacities[index]:
            heapq.heappush(queue, (-exact[index] / (2 * seats[index] + 1), index))
    return seats
