"""Reading whatever mask a model got or made: 2-D, 4-D (boolean or additive), a flex `BlockMask`, a dictionary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lavakv.errors import InputError, UnsupportedError
from lavakv.eviction.columns import host_readable

_FULL = "full_attention"


def of_full_layers(mask: Any) -> Any:
    """The mask of the full-attention layers, where a model takes a dictionary of masks by layer type."""
    return mask.get(_FULL) if isinstance(mask, dict) else mask


def real_columns(mask: Any, batch: int, num_queries: int, num_seen: int, device: torch.device) -> Tensor:
    """Which of the new columns are real tokens, bool `[B, q]`.

    Args:
        mask: what the model got as `attention_mask`.
        batch: sequences `B`.
        num_queries: new columns `q`, the last ones of the mask.
        num_seen: columns the cache has seen before.
        device: where the model's inputs are.

    Raises:
        InputError: a mask for another batch, or one that does not span all columns.
        UnsupportedError: a mask per query head, or one that adds numbers to logits.
    """
    mask = of_full_layers(mask)
    if mask is None or num_queries == 0:
        return torch.ones(batch, num_queries, dtype=torch.bool, device=device)
    if isinstance(mask, Tensor) and mask.ndim == 2:
        _check_shape(tuple(mask.shape), (batch, num_seen + num_queries))
        return mask[:, -num_queries:].to(device=device, dtype=torch.bool)
    if not is_explicit(mask):
        _check_shape(tuple(getattr(mask, "shape", ())), (batch, num_seen + num_queries))
    _check_explicit(mask, batch, num_queries, num_seen + num_queries)
    if num_seen:
        return _own_columns(mask, num_queries, batch, device)
    rows = last_rows(mask, 1, batch, device)  # of a prompt, what its last token does not see is padding
    return rows[:, -1, -num_queries:].expand(batch, -1)


def _own_columns(mask: Any, num_queries: int, batch: int, device: torch.device) -> Tensor:
    """Whether each new token sees itself, bool `[B, q]`; in a tree of drafts not every later token sees it."""
    if isinstance(mask, Tensor):
        rows = mask_rows(mask, 0, num_queries, batch, device)
        return rows.diagonal(rows.shape[2] - num_queries, dim1=1, dim2=2).expand(batch, -1)
    queries = torch.arange(num_queries, device=device)[None, :]
    columns = queries + mask.seq_lengths[1] - num_queries
    sequences = torch.arange(batch, device=device)[:, None]
    seen: Tensor = mask.mask_mod(sequences, torch.zeros((), dtype=torch.long, device=device), queries, columns)
    return seen.broadcast_to(batch, num_queries)


def visible_columns(mask: Any, num_queries: int, batch: int, device: torch.device) -> Tensor | None:
    """What the last `num_queries` queries may see, bool `[1 or B, 1 or q, columns]`; None where no mask is given.

    One row for all queries says which columns count; which of the new ones a query sees is then causal.
    """
    mask = of_full_layers(mask)
    if mask is None:
        return None
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return mask.to(device=device, dtype=torch.bool)[:, None]
    return last_rows(mask, num_queries, batch, device)


def shows_padding(mask: Any, held: Tensor) -> Tensor | None:
    """Whether a mask shows columns that were padding in the prompt and that no head holds.

    Args:
        mask: the `attention_mask` of a later forward, of whatever kind.
        held: bool `[B, n]`, real tokens among the columns before the tail.

    Returns:
        Bool `[]` where only the device knows, else None.

    Raises:
        InputError: the host can see that it does.
    """
    seen = visible_columns(mask, 1, held.shape[0], held.device)
    if seen is None or held.shape[1] == 0:
        return None
    found = (seen[:, -1, : held.shape[1]] & ~held).any()
    if not host_readable(held.device):
        return found
    check_brought_back(found)
    return None


def check_brought_back(found: Tensor | None) -> None:
    """Raise InputError where a mask has shown what was never held, bool `[]`."""
    if found is not None and bool(found):
        raise InputError(
            "attention_mask",
            expected="padding of the prompt to stay hidden: its entries were never kept",
            got="a mask that shows some of it",
            fix="Keep the zeros that the prompt's mask had, and add to them.",
        )


def is_explicit(mask: Any) -> bool:
    """Whether a mask gives each query's columns (4-D or flex), not only padding."""
    return (isinstance(mask, Tensor) and mask.ndim == 4) or hasattr(mask, "mask_mod")


def last_rows(mask: Any, num_rows: int, batch: int, device: torch.device) -> Tensor:
    """What the last `num_rows` queries may see, bool `[1 or B, num_rows, columns]`, from a 4-D or block mask."""
    num_queries = mask.shape[2] if isinstance(mask, Tensor) else mask.seq_lengths[0]
    return mask_rows(mask, num_queries - num_rows, num_queries, batch, device)


def mask_rows(mask: Any, start: int, stop: int, batch: int, device: torch.device) -> Tensor:
    """What the queries `start` to `stop` may see, bool `[1 or B, stop - start, columns]`."""
    num_rows = stop - start
    if isinstance(mask, Tensor):
        rows = mask[:, 0, start:stop].to(device)
        return rows if rows.dtype == torch.bool else rows > torch.finfo(rows.dtype).min / 2
    num_columns = mask.seq_lengths[1]
    queries = torch.arange(start, stop, device=device)[None, :, None]
    columns = torch.arange(num_columns, device=device)[None, None, :]
    sequences = torch.arange(batch, device=device)[:, None, None]
    seen: Tensor = mask.mask_mod(sequences, torch.zeros((), dtype=torch.long, device=device), queries, columns)
    return seen.broadcast_to(batch, num_rows, num_columns)


def _check_shape(got: tuple[int, ...], expected: tuple[int, int]) -> None:
    if got != expected:
        raise InputError(
            "attention_mask",
            expected=f"a mask of all columns, seen and new, shape {expected}",
            got=str(got),
            fix="Pass the tokenizer's mask behind that of what the cache holds; a new text needs a new cache.",
        )


def _check_explicit(mask: Any, batch: int, num_queries: int, num_columns: int) -> None:
    """Check a mask of each query's columns: its size, one for all heads, and that it hides or shows, nothing else."""
    if not isinstance(mask, Tensor):
        if tuple(mask.seq_lengths) != (num_queries, num_columns):
            _check_shape(tuple(mask.seq_lengths), (num_queries, num_columns))
        return
    sequences, heads, queries, columns = mask.shape
    if sequences not in (1, batch) or (queries, columns) != (num_queries, num_columns):
        raise InputError(
            "attention_mask",
            expected=f"a 4-D mask of all columns, seen and new, shape {(batch, 1, num_queries, num_columns)}",
            got=str(tuple(mask.shape)),
            fix="Let it cover what the cache has seen, evicted columns and padding included.",
        )
    if heads != 1:
        raise _unsupported("one mask for all heads", f"one for each of {heads} heads")
    if mask.dtype != torch.bool and not _only_hides(mask):
        raise _unsupported("a mask that shows or hides", f"{mask.dtype} with other numbers in it")


def _only_hides(mask: Tensor) -> bool:
    """Whether an additive mask holds only zeros and lowest numbers, as far as the host can see."""
    if not mask.is_floating_point():
        return False
    return not host_readable(mask.device) or bool(((mask == 0) | (mask <= torch.finfo(mask.dtype).min / 2)).all())


def _unsupported(expected: str, got: str) -> UnsupportedError:
    return UnsupportedError(
        "attention_mask", expected=expected, got=got, fix="Use a boolean mask [B, 1, q, columns], or DynamicCache."
    )
