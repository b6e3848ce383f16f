"""Smoothing over neighbours: over neighbouring places, or over candidates whose positions are within reach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

BY_POSITION = False  # which neighbours count where heads hold unequally many candidates; see `Places`
_BEYOND_REACH = -(2**40)


class Places(NamedTuple):
    """Places of a table some of which are empty. Rows to pool must be zero there; pooled rows are.

    Pooling takes neighbouring places together, or, by position, only those whose positions differ by at most half the
    kernel. In a prompt, where place and position are the same, both are equal.

    Attributes:
        empty: bool `[H, n]`.
        positions: int64 `[H, n]`, ascending in the places that are not empty, anything in the others.
        by_position: only neighbours within reach count.
    """

    empty: Tensor
    positions: Tensor
    by_position: bool

    def between(self, start: int, stop: int) -> Places:
        """Some of the places."""
        return self._replace(empty=self.empty[:, start:stop], positions=self.positions[:, start:stop])


def max_pool(rows: Tensor, kernel_size: int, places: Places | None = None) -> Tensor:
    """Largest of the `kernel_size` neighbours, fewer at the borders.

    Args:
        rows: `[..., n]`; with places `[H, ..., n]` and not negative.
        kernel_size: neighbours, itself included; odd.
        places: which of the places are empty, or None for none.

    Returns:
        The same shape.
    """
    if not rows.numel():
        return rows
    if places is not None and places.by_position:
        return _cleared(reduce(torch.maximum, _within_reach(rows, kernel_size // 2, places)), places)
    flat = rows.reshape(-1, 1, rows.shape[-1])
    return _cleared(
        functional.max_pool1d(flat, kernel_size, stride=1, padding=kernel_size // 2).view(rows.shape), places
    )


def average_pool(rows: Tensor, kernel_size: int, places: Places | None = None) -> Tensor:
    """Sum of the neighbours, zeros beyond the borders, divided by the kernel size; otherwise as `max_pool`."""
    if not rows.numel():
        return rows
    if places is not None and places.by_position:
        return _cleared(reduce(torch.add, _within_reach(rows, kernel_size // 2, places)).div_(kernel_size), places)
    flat = rows.reshape(-1, 1, rows.shape[-1])
    return _cleared(
        functional.avg_pool1d(flat, kernel_size, stride=1, padding=kernel_size // 2).view(rows.shape), places
    )


def average_pool_blocks(blocks: Iterable[Tensor], kernel_size: int, places: Places | None = None) -> Iterator[Tensor]:
    """`average_pool` of consecutive blocks `[..., tokens]` taken as one, never joined; cut at other places than they.

    A position waits until its neighbours are known; of the done ones those stay that the next ones need.
    """
    reach, held, num_done, start = kernel_size // 2, None, 0, 0  # the first `num_done` held ones are done
    for block in blocks:
        rows = block if held is None else torch.cat([held, block], dim=-1)
        stop = max(rows.shape[-1] - reach, num_done)
        some = None if places is None else places.between(start, start + rows.shape[-1])
        yield average_pool(rows, kernel_size, some)[..., num_done:stop]
        first = max(stop - reach, 0)
        held, num_done = rows[..., first:].clone(), stop - first  # no view that keeps the block alive
        start += first
    if held is not None:
        some = None if places is None else places.between(start, start + held.shape[-1])
        yield average_pool(held, kernel_size, some)[..., num_done:]


def over_places(per_head: Tensor, ndim: int) -> Tensor:
    """View `[H, n]` as `[H, 1, ..., 1, n]` with `ndim` dimensions."""
    return per_head.reshape(per_head.shape[0], *[1] * (ndim - 2), per_head.shape[1])


def _within_reach(rows: Tensor, reach: int, places: Places) -> Iterator[Tensor]:
    """For each distance in places, the neighbour there: zero where its position is further off than `reach`."""
    count, ndim = rows.shape[-1], rows.ndim
    padded = functional.pad(rows, (reach, reach))
    positions = functional.pad(places.positions, (reach, reach), value=_BEYOND_REACH)
    for start in range(2 * reach + 1):
        near = (positions[:, start : start + count] - places.positions).abs() <= reach
        yield padded[..., start : start + count] * over_places(near, ndim)


def _cleared(pooled: Tensor, places: Places | None) -> Tensor:
    return pooled if places is None else pooled.masked_fill_(over_places(places.empty, pooled.ndim), 0.0)
