"""The masked store: every column stays, a rank says which are held. The oracle of the ragged store; saves nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from lavakv.store.base import Counts, LayerStore
from lavakv.store.growing import GrowingKeyValues

_NEVER = torch.iinfo(torch.int64).max


class MaskedStore(LayerStore):
    """Dense keys and values with a mask per head. See `layout.md`."""

    def __init__(self) -> None:
        self.dense: GrowingKeyValues | None = None
        self._ranks: Tensor | None = None
        self._counts: Tensor | None = None
        self._tail_start = 0

    @property
    @override
    def num_heads(self) -> int:
        return 0 if self.dense is None else self.dense.keys.shape[1]

    @property
    @override
    def device(self) -> torch.device:
        assert self.dense is not None
        return self.dense.keys.device

    @override
    def hold(self, keys: Tensor, values: Tensor) -> None:
        self.dense = GrowingKeyValues(keys.detach().clone(), values.detach().clone())

    @override
    def keep(self, ranked_columns: Sequence[Tensor], counts: Counts, window: int) -> None:
        assert self.dense is not None
        keys = self.dense.keys
        self._tail_start = keys.shape[2] - window
        self._ranks = torch.full((*keys.shape[:2], self._tail_start), _NEVER, device=keys.device)
        for ranks, columns in zip(self._ranks, ranked_columns, strict=True):
            order = torch.arange(columns.shape[1], device=keys.device).expand_as(columns)
            ranks.scatter_(1, columns.to(keys.device), order)
        self.trim(counts)

    @override
    def trim(self, counts: Counts) -> None:
        assert self._ranks is not None
        self._counts = torch.tensor(counts, device=self._ranks.device)

    @override
    def append(self, keys: Tensor, values: Tensor) -> None:
        assert self.dense is not None
        self.dense.append(keys.detach(), values.detach())

    @override
    def reserve(self, num_columns: int) -> None:
        assert self.dense is not None
        self.dense.reserve(num_columns)

    @override
    def past_counts(self) -> list[list[int]]:
        counts: list[list[int]] = self.held().sum(dim=2).tolist()
        return counts

    @override
    def past_columns(self, sequence: int, head: int) -> Tensor:
        return self.held()[sequence, head].nonzero().flatten()

    def held(self) -> Tensor:
        """Which columns before the tail each head holds, bool `[B, H, columns]`."""
        assert self._ranks is not None
        assert self._counts is not None
        return self._ranks < self._counts[:, :, None]

    @property
    @override
    def tail_length(self) -> int:
        return 0 if self.dense is None else self.dense.length - self._tail_start

    @property
    @override
    def nbytes(self) -> int:
        return 0 if self.dense is None else self.dense.nbytes

    @override
    def bytes_by_sequence(self) -> list[int]:
        assert self.dense is not None
        batch = self.dense.keys.shape[0]
        return [self.dense.nbytes // batch] * batch
