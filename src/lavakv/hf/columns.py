"""Which columns of a padded batch are real tokens, read from whatever mask the caller passed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lavakv.errors import InputError
from lavakv.hf.modes import storing


class Columns:
    """Real tokens and padding of every column a cache has seen, bool `[B, columns]` that grows by half."""

    def __init__(self) -> None:
        self._real: Tensor | None = None
        self.length = 0
        self.any_padding = False  # True also where nobody looked

    @storing()
    def append(self, real: Tensor, all_real: bool) -> None:
        """Add the columns of one forward, bool `[B, q]`; `all_real` says that none is padding, and saves looking."""
        may_look = looking_is_free(real.device) or self.length == 0  # later forwards do not wait for a device
        end = self.length + real.shape[1]
        if self._real is None or end > self._real.shape[1]:
            larger = torch.ones(real.shape[0], end + end // 2, dtype=torch.bool, device=real.device)
            if self._real is not None:
                larger[:, : self.length] = self._real[:, : self.length]
            self._real = larger
        self._real[:, self.length : end] = real
        self.length = end
        self.any_padding = self.any_padding or not (all_real or (may_look and bool(real.all())))

    @property
    def real(self) -> Tensor:
        """Bool `[B, columns]`; False is padding."""
        assert self._real is not None
        return self._real[:, : self.length]

    def positions(self, sequence: int, columns: Tensor) -> Tensor:
        """Original token positions of columns, padding left out; ascending if the columns are."""
        row = self.real[sequence]
        columns = columns.to(row.device)
        return (row.long().cumsum(0) - 1)[columns[row[columns]]]


def looking_is_free(device: torch.device) -> bool:
    """Can the host read tensors of this device without waiting for it?"""
    return device.type == "cpu"


def real_columns(mask: Any, batch: int, num_queries: int, num_seen: int, device: torch.device) -> Tensor:
    """Which of the new columns are real tokens, bool `[B, q]`.

    Args:
        mask: what the model got as `attention_mask`: None, `[B, columns]`, a 4-D mask (boolean or additive), a flex
            `BlockMask`, or a dictionary of masks by layer type.
        batch: sequences `B`.
        num_queries: new columns `q`, the last ones of the mask.
        num_seen: columns the cache has seen before.
        device: where the model's inputs are.

    Raises:
        InputError: a mask for another batch, or one that does not span all columns.
    """
    if isinstance(mask, dict):
        mask = mask.get("full_attention")
    if mask is None or num_queries == 0:
        return torch.ones(batch, num_queries, dtype=torch.bool, device=device)
    if not isinstance(mask, Tensor) or mask.ndim == 4:
        rows = last_rows(mask, 1, batch, device)
        return rows[:, -1, -num_queries:].expand(batch, -1)
    if mask.ndim != 2 or tuple(mask.shape) != (batch, num_seen + num_queries):
        raise InputError(
            "attention_mask",
            expected=f"a mask of all columns, seen and new, shape {(batch, num_seen + num_queries)}",
            got=str(tuple(mask.shape)),
            fix="Pass the mask the tokenizer returns, after that of what the cache holds.",
        )
    return mask[:, -num_queries:].to(device=device, dtype=torch.bool)


def is_explicit(mask: Any) -> bool:
    """Does a mask tell each query's columns (4-D or flex), not only padding?"""
    return (isinstance(mask, Tensor) and mask.ndim == 4) or hasattr(mask, "mask_mod")


def last_rows(mask: Any, num_rows: int, batch: int, device: torch.device) -> Tensor:
    """What the last `num_rows` queries may see, bool `[1 or B, num_rows, columns]`, from a 4-D or block mask."""
    num_queries = mask.shape[2] if isinstance(mask, Tensor) else mask.seq_lengths[0]
    return mask_rows(mask, num_queries - num_rows, num_queries, batch, device)


def mask_rows(mask: Any, start: int, stop: int, batch: int, device: torch.device) -> Tensor:
    """What the queries `start` to `stop` may see, bool `[1 or B, stop - start, columns]`."""
    num_rows = stop - start
    if isinstance(mask, Tensor):
        rows = mask[:, 0, start:stop]
        return rows if rows.dtype == torch.bool else rows > torch.finfo(rows.dtype).min / 2
    num_columns = mask.seq_lengths[1]
    queries = torch.arange(start, stop, device=device)[None, :, None]
    columns = torch.arange(num_columns, device=device)[None, None, :]
    sequences = torch.arange(batch, device=device)[:, None, None]
    seen: Tensor = mask.mask_mod(sequences, torch.zeros((), dtype=torch.long, device=device), queries, columns)
    return seen.broadcast_to(batch, num_rows, num_columns)
