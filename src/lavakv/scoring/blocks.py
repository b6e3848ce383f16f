"""The window's attention in blocks of keys, so that memory does not grow with the prompt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MAX_BLOCK_ELEMENTS = 2**24  # 64 MiB of float32


class WindowRows(NamedTuple):
    """The window's queries and everything their attention depends on; see `ScoringWindow` for the meanings.

    Attributes:
        queries: `[H, G, w, head_dim]`.
        keys: chunks of `[H, tokens, head_dim]`.
        scaling: factor on query-key products.
        softcap: logit softcap, or None.
        sinks: `[H, G]`, or None.
        visible: bool `[w, N]` or `[H, 1, w, N]`, or None for causal.
        caps: int64 `[H]`, or None where every place holds a key.
    """

    queries: Tensor
    keys: Sequence[Tensor]
    scaling: float
    softcap: float | None
    sinks: Tensor | None
    visible: Tensor | None
    caps: Tensor | None = None

    def whole(self) -> Tensor:
        """Attention to all keys, which are one chunk, in one pass: float32 `[H, G, w, N]`."""
        (keys,) = self.keys
        logits = self.logits(keys, 0, self.sinks)
        return torch.softmax(logits, dim=-1, out=logits)[..., : keys.shape[1]]  # new memory costs more than a softmax

    def blocks(self, denominators: Tensor, block_tokens: int) -> Iterator[Tensor]:
        """Attention to at most `block_tokens` keys at a time, float32 `[H, G, w, tokens]`.

        Args:
            denominators: what `denominators` returned.
            block_tokens: keys at a time.
        """
        (largest, total), start = denominators, 0
        for keys in token_blocks(self.keys, block_tokens):
            yield self.logits(keys, start).sub_(largest).exp_().div_(total)
            start += keys.shape[1]

    def denominators(self, block_tokens: int) -> Tensor:
        """Each row's largest logit over all keys, and its softmax denominator in units of that, `[2, H, G, w, 1]`."""
        if self.sinks is None:
            largest = self.queries.new_full((*self.queries.shape[:3], 1), -torch.inf, dtype=torch.float32)
            total = torch.zeros_like(largest)
        else:
            largest = self.sinks.float()[:, :, None, None].expand(*self.queries.shape[:3], 1)
            total = torch.ones_like(largest)
        start = 0
        for keys in token_blocks(self.keys, block_tokens):
            if keys.shape[1]:
                logits = self.logits(keys, start)
                higher = torch.maximum(largest, logits.amax(dim=-1, keepdim=True))
                reference = higher.clamp(min=torch.finfo(higher.dtype).min)  # -inf - -inf would be NaN
                total = total * (largest - reference).exp() + logits.sub_(reference).exp_().sum(dim=-1, keepdim=True)
                largest, start = higher, start + keys.shape[1]
        return torch.stack([largest, total])

    def logits(self, keys: Tensor, start: int, sinks: Tensor | None = None) -> Tensor:
        """Logits of the keys that stand from place `start` on; see `masked_logits`."""
        first = sum(chunk.shape[1] for chunk in self.keys) - self.queries.shape[2]
        stop = start + keys.shape[1]
        visible = None if self.visible is None else self.visible[..., start:stop]
        empty = None if self.caps is None else empty_places(self.caps, start, stop, first)
        rows = QueryRows(self.queries, first - start, visible, empty)
        return masked_logits(rows, keys, self.scaling, self.softcap, sinks)


def empty_places(caps: Tensor, start: int, stop: int, num_places: int) -> Tensor:
    """Mark the empty places from `start` to `stop`, bool `[H, stop - start]`.

    Args:
        caps: int64 `[H]`: the first `caps[h]` of a head's places hold candidates.
        start: first place.
        stop: place after the last one.
        num_places: places for candidates; the window's entries after them are never empty.
    """
    places = torch.arange(start, stop, device=caps.device)
    return (places >= caps[:, None]) & (places < num_places)


def token_blocks(chunks: Iterable[Tensor], block_tokens: int) -> Iterator[Tensor]:
    """Views of at most `block_tokens` tokens of chunks `[H, tokens, dim]`, in order."""
    for chunk in chunks:
        yield from torch.split(chunk, block_tokens, dim=1)


def first_tokens(chunks: Sequence[Tensor], count: int) -> list[Tensor]:
    """Views of the first `count` tokens of chunks `[H, tokens, dim]`."""
    found = []
    for chunk in chunks:
        found.append(chunk[:, :count])
        count = max(count - chunk.shape[1], 0)
    return found


def joined(blocks: Iterable[Tensor]) -> Tensor:
    """One or more blocks as one along the last axis; a single one is not copied."""
    parts = list(blocks)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class QueryRows(NamedTuple):
    """Consecutive queries of one sequence.

    Attributes:
        queries: `[H, G, rows, head_dim]`, any float dtype.
        first: position of the first row, counted from the first key.
        visible: bool `[rows, tokens]` or `[H, 1, rows, tokens]`, what each row sees of the keys; None means causal.
        empty: bool `[H, tokens]`, places that hold no key, whatever their contents; None where all hold one.
    """

    queries: Tensor
    first: int
    visible: Tensor | None
    empty: Tensor | None = None


def masked_logits(
    rows: QueryRows,
    keys: Tensor,
    scaling: float,
    softcap: float | None,
    sinks: Tensor | None,
    workspace: Tensor | None = None,
) -> Tensor:
    """Logits in float32, -inf where a row does not see and where a place is empty.

    Args:
        rows: the queries.
        keys: `[H, tokens, head_dim]`.
        scaling: factor on query-key products.
        softcap: logit softcap, or None.
        sinks: `[H, G]` to append as a last column, or None.
        workspace: float32 `[>= H * G * rows * tokens]`, memory to write to: new pages cost more than the product.

    Returns:
        `[H, G, rows, tokens]`, one column more with sinks.
    """
    logits = plain_logits(rows, keys, scaling, softcap, workspace)
    if rows.visible is not None:
        logits.masked_fill_(~rows.visible, float("-inf"))
    else:
        first_masked = min(max(rows.first, 0), keys.shape[1])  # every row sees what came before the first
        logits[..., first_masked:].masked_fill_(~_causal(rows, first_masked, keys), float("-inf"))
    if rows.empty is not None:
        logits.masked_fill_(rows.empty[:, None, None], float("-inf"))
    if sinks is not None:
        column = sinks.float()[:, :, None, None].expand(*logits.shape[:3], 1)
        logits = torch.cat([logits, column], dim=-1)
    return logits


def plain_logits(
    rows: QueryRows, keys: Tensor, scaling: float, softcap: float | None, workspace: Tensor | None = None
) -> Tensor:
    """Logits in float32 where every row sees every key, `[H, G, rows, tokens]`; arguments as `masked_logits`."""
    heads, group, num_rows, _ = rows.queries.shape
    packed = rows.queries.float().reshape(heads, group * num_rows, -1) * scaling
    shape = (heads, group * num_rows, keys.shape[1])
    target = None if workspace is None else workspace[: math.prod(shape)].view(shape)
    logits = torch.bmm(packed, keys.float().transpose(1, 2), out=target).view(heads, group, num_rows, -1)
    if softcap is not None:
        logits = logits.div_(softcap).tanh_().mul_(softcap)
    return logits


def _causal(rows: QueryRows, start: int, keys: Tensor) -> Tensor:
    """Whether a row sees each key from `start` on, bool `[rows, tokens - start]`."""
    positions = torch.arange(rows.first, rows.first + rows.queries.shape[2], device=keys.device)
    return torch.arange(start, keys.shape[1], device=keys.device) <= positions[:, None]
