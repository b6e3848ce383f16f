"""A head's entries in order: its candidates, then the window's, without the empty places between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lavakv.scoring.window import ScoringWindow


def num_held(window: ScoringWindow) -> Tensor:
    """Entries of each head, the window's included, int64 `[H, 1]`."""
    heads, _, rows, _ = window.queries.shape
    if window.caps is not None:
        return window.caps[:, None] + rows
    return torch.full((heads, 1), window.num_tokens, device=window.queries.device)


def at_first_positions(window: ScoringWindow, num_first: int) -> Tensor:
    """Whether a candidate is one of the sequence's first tokens, bool `[H, n]`; False in empty places."""
    first = window.candidate_positions < num_first
    return first if window.empty is None else first & ~window.empty


def in_prompt_order(window: ScoringWindow) -> bool:
    """Whether every place holds the token of its number, as in a prompt."""
    return window.caps is None and window.positions is None


def numbers_in_order(window: ScoringWindow, numbers: Tensor) -> Tensor:
    """Numbers of all places as the entries of each head follow each other, `[H, N]`; zeros behind the last one.

    A candidate's number stays where it is, because empty places come after all of a head's candidates.
    """
    if window.caps is None:
        return numbers
    entries = torch.arange(window.num_tokens, device=numbers.device)
    caps = window.caps[:, None]
    places = torch.where(entries < caps, entries, window.num_evictable + entries - caps)
    ordered = numbers.gather(1, places.clamp(max=window.num_tokens - 1))
    return ordered.masked_fill(entries >= num_held(window), 0.0)


def vectors_in_order(window: ScoringWindow, chunks: Sequence[Tensor], num_first: int, start: int, stop: int) -> Tensor:
    """Some of each head's keys or values as its entries follow each other, float32 `[H, stop - start, dim]`.

    Entries are counted behind those at the sequence's first positions. Beyond a head's last entry stands any of the
    window; where places are in the prompt's order, `stop` lies within it.

    Args:
        window: whose entries.
        chunks: its keys or its values.
        num_first: first positions of the sequence to leave out.
        start: first entry.
        stop: entry after the last one.
    """
    count = window.num_evictable
    if in_prompt_order(window):
        first = min(num_first, count)
        return tokens_between(chunks, first + start, first + stop).float()
    candidates = tokens_between(chunks, start, min(stop + num_first, count))
    both = torch.cat([candidates, tokens_between(chunks, count, window.num_tokens)], dim=1)
    first_entry = at_first_positions(window, num_first).sum(dim=1, keepdim=True)
    entries = first_entry + torch.arange(start, stop, device=both.device)
    caps = num_held(window) - window.queries.shape[2]
    places = torch.where(entries < caps, entries - start, candidates.shape[1] + entries - caps)
    index = places.clamp(max=both.shape[1] - 1)[..., None].expand(-1, -1, both.shape[2])
    return both.gather(1, index).float()


def tokens_between(chunks: Sequence[Tensor], start: int, stop: int) -> Tensor:
    """Tokens from `start` to `stop` of chunks `[H, tokens, dim]`, copied."""
    parts, first = [], 0
    for chunk in chunks:
        parts.append(chunk[:, max(start - first, 0) : max(stop - first, 0)])
        first += chunk.shape[1]
    return torch.cat(parts, dim=1)
