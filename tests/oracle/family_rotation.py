"""Scores of the family that look before the rotation: Expected Attention, Compactor, `reach`."""

from __future__ import annotations

import numpy
import torch

from tests.oracle.family_noise import hashed
from tests.oracle.family_view import Ranking, View
from tests.oracle.reference import attention_rows


def expected_attention(view: View, keep: int, first: int = 4, epsilon: float = 0.01) -> Ranking:
    """By what a query to come, normally distributed as the prompt's, would pay; the first four outright."""
    turn, ranked = mean_turn(view), []
    for head in view.heads:
        keys, shares = view.keys[head, first:], []
        for query in view.queries_of(head):
            rows = view.unrotated(0, query)[first:]
            mean, covariance = turn @ rows.mean(dim=0), turn @ torch.cov(rows.T, correction=0) @ turn.T
            scale = view.capture.scaling
            exponent = keys @ mean * scale + torch.einsum("ki,ij,kj->k", keys, covariance, keys) * scale**2 / 2
            shares.append(exponent.softmax(dim=0))
        lengths = view.all_values[head, first:].square().sum(dim=1).sqrt()
        row = (torch.stack(shares).mean(dim=0) + epsilon) * lengths
        ranked.append([0.0] * first + row[: view.num_evictable - first].tolist())
    return Ranking(ranked, [set(range(first)) for _ in view.heads])


def mean_turn(view: View) -> torch.Tensor:
    """The mean of the matrices that rotate a query at the next positions, `[head_dim, head_dim]`."""
    cos, sin = view.capture.ahead
    size = cos.shape[1]
    half = torch.zeros(size, size)
    half[torch.arange(size // 2), torch.arange(size // 2) + size // 2] = -1
    half -= half.T.clone()
    matrices = [torch.diag(c) + torch.diag(s) @ half for c, s in zip(cos.float(), sin.float(), strict=True)]
    return torch.stack(matrices).mean(dim=0).to(view.dtype)


def compactor(view: View, keep: int, first: int = 8, last: int = 4) -> Ranking:
    """Leverage before the rotation by the part that goes, and attention in chunks; the ends outright."""
    length = view.keys.shape[1]
    part = slice(first, length - last)
    share = 1 - (keep + view.window) / length
    leverage = torch.stack([_leverage(view.unrotated(1, head)[part].double()) for head in view.heads])
    both = share * _standard(leverage) + _standard(_in_chunks(view, part))
    count = view.num_evictable
    rows = [[*[0.0] * first, *row.tolist(), *[0.0] * last][:count] for row in both]
    outright = {place for place in range(count) if place < first or place >= length - last}
    return Ranking(rows, [outright for _ in view.heads])


def _leverage(keys: torch.Tensor, size: int = 48) -> torch.Tensor:
    """Of sketched keys: the diagonal of their projection onto the space that they span."""
    channels, numbers = numpy.meshgrid(numpy.arange(keys.shape[1]), numpy.arange(size), indexing="ij")
    even, turn = (hashed(part, channels, numbers) for part in (0, 1))
    sketch = torch.from_numpy(numpy.sqrt(-2 * numpy.log(1 - even)) * numpy.cos(2 * numpy.pi * turn) / size**0.5)
    rows = (keys - keys.mean(dim=0)) @ sketch
    return torch.diagonal(rows @ torch.linalg.inv(rows.T @ rows + 0.01 * torch.eye(size).double()) @ rows.T)


def _in_chunks(view: View, part: slice, size: int = 256) -> torch.Tensor:
    """What a token receives in its chunk times its value's length, meaned with its neighbours'; `[heads, tokens]`."""
    found = []
    for head in view.heads:
        keys, received = view.keys[head, part].double(), []
        for query in view.queries_of(head):
            rows = view._own(view.capture.queries)[query, part].double()
            pairs = zip(rows.split(size), keys.split(size), strict=True)
            paid = [(q @ k.T).softmax(dim=1).sum(dim=0) + (size - len(k)) / size for q, k in pairs]
            received.append(torch.cat(paid))
        weighted = torch.stack(received).mean(dim=0) * view.all_values[head, part].double().norm(dim=1)
        around = torch.cat([weighted.new_zeros(1), weighted, weighted.new_zeros(1)])
        found.append((around[:-2] + around[1:-1] + around[2:]) / 3)
    return torch.stack(found)


def _standard(scores: torch.Tensor) -> torch.Tensor:
    return (scores - scores.mean()) / scores.std().clamp(min=1e-6)


def reach(view: View, keep: int, most: int = 128) -> Ranking:
    """By what a query of the prompt would pay at its last position, and how far key and value are from the mean."""
    stream, places = view.stream_norms.square().mean().sqrt(), unlike_others(view, most)
    ranked = []
    for head in view.heads:
        paid, squares = [], []
        for query in view.queries_of(head):
            rows = turned_to_the_last(view, view.unrotated(0, query)[places])
            sink = None if view.capture.sinks is None else view.capture.sinks[query].to(view.dtype)
            settings = (view.capture.scaling, view.capture.softcap, sink)
            each = [attention_rows(row[None], view.keys[head], *settings) for row in rows]  # the last row sees all
            paid.append(torch.cat(each)[:, : view.num_evictable].amax(dim=0))
            apart = view.values[head] - view.all_values[head].to(view.values.dtype).mean(dim=0)
            squares.append((apart @ view.to_stream(query)).square().sum(dim=1))
        largest = torch.stack(paid).amax(dim=0)
        lengths = torch.stack(squares).mean(dim=0).sqrt()
        apart = distances(view, head)[: view.num_evictable]
        unseen = largest.sum() / (keep + view.window) / 16 * in_steps(apart / apart.mean()) ** 1.5
        ranked.append((torch.maximum(largest, unseen) * lengths / stream).tolist())
    return Ranking(ranked)


def reach_question(view: View, keep: int) -> Ranking:
    """`reach`, beside what the window looks at and what stands behind that."""
    stream, copied = view.stream_norms.square().mean().sqrt(), []
    for head in view.heads:
        apart = view.values[head] - view.all_values[head].to(view.values.dtype).mean(dim=0)
        squares = [(apart @ view.to_stream(query)).square().sum(dim=1) for query in view.queries_of(head)]
        copied.append(looked_at(view, head) * torch.stack(squares).mean(dim=0).sqrt() / stream)
    first = torch.tensor(reach(view, keep).scores, dtype=view.dtype)
    return Ranking(both(first, torch.stack(copied), keep).tolist())


def looked_at(view: View, head: int, behind: int = 8, part: float = 0.3) -> torch.Tensor:
    """What the window pays in the mean, at most over the group; to a token behind such a one, three tenths of it."""
    paid = torch.stack([view.seen[query].mean(dim=0) for query in view.queries_of(head)]).amax(dim=0)
    shifted = [torch.cat([paid.new_zeros(step), paid])[: len(paid)] for step in range(1, behind + 1)]
    return torch.stack([paid, *(part * one for one in shifted)]).amax(dim=0)


def both(first: torch.Tensor, second: torch.Tensor, keep: int) -> torch.Tensor:
    """The larger, the second so scaled that up to half of the layer's entries are among the kept by it alone."""
    kept = keep * len(first)
    from_second = int(kept * min((keep - 32) / 128, 1) / 2)
    if from_second <= 0 or kept >= first.numel():
        return first
    ordered = [part.flatten().sort(descending=True).values for part in (first, second)]
    return torch.maximum(first, second * (ordered[0][kept - 1] / ordered[1][from_second - 1]))


def distances(view: View, head: int) -> torch.Tensor:
    """How far each key of a head is from their mean, squared, before the rotation."""
    keys = view.unrotated(1, head)
    return (keys - keys.mean(dim=0)).square().sum(dim=1)


def in_steps(numbers: torch.Tensor) -> torch.Tensor:
    """Rounded to 1,024ths."""
    return (numbers * 1024).round() / 1024


def unlike_others(view: View, most: int) -> list[int]:
    """A quarter evenly spread, and those whose keys, in this layer and before it, are furthest from the others."""
    total = 0
    for layer in (*view.earlier, view):
        parts = [distances(layer, head) for head in layer.heads]
        total = total + torch.stack([in_steps(part / part.mean()) for part in parts]).mean(dim=0)
    length = len(total)
    spread = [length - 1 - part * length // min(most // 4, length) for part in range(min(most // 4, length))]
    best = sorted(set(range(length)) - set(spread), key=lambda place: (-float(total[place]), place))
    return best[: most - len(spread)] + spread


def turned_to_the_last(view: View, rows: torch.Tensor) -> torch.Tensor:
    """Queries as the prompt's last position rotates them."""
    cos, sin = (part.to(view.dtype) for part in view.capture.last)
    half = rows.shape[1] // 2
    if cos.shape[1] == half:  # the model passes one of two equal halves
        cos, sin = torch.cat([cos, cos], dim=1), torch.cat([sin, sin], dim=1)
    return rows * cos + torch.cat([-rows[:, half:], rows[:, :half]], dim=1) * sin
