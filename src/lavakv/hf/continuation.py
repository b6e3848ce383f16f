"""Does what is sent continue what a cache holds? A cache remembers what stood in each column it has seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lavakv.errors import CacheMismatchError, UnsupportedError
from lavakv.eviction.columns import Columns

_NO_ID = -(1 << 61)  # below are fingerprints; some models have negative ids for images
_MAX_DIMS = 64  # of an embedding, evenly spaced; two tokens that agree in all of them are the same token


def tokens_of(inputs: Tensor) -> Tensor:
    """What a cache remembers of inputs, int64 `[B, q]`: ids as they are, a negative fingerprint of each embedding.

    Args:
        inputs: token ids `[B, q]` or embeddings `[B, q, hidden]`.
    """
    if inputs.ndim == 2:
        return inputs.detach().long()
    step = -(-inputs.shape[2] // _MAX_DIMS)
    bits = inputs.detach()[:, :, ::step].float().contiguous().view(torch.int32).long()
    weights = torch.arange(1, 2 * bits.shape[2], 2, device=bits.device) * 0x9E3779B97F4A7C1 % (1 << 62)
    mixed = ((bits + (bits.roll(1, dims=-1) << 17)) * weights).sum(dim=-1)  # integers: no order of summing matters
    return _NO_ID - 1 - (mixed & ((1 << 61) - 1))


def check_continues(columns: Columns, sent: Tensor, mask: Tensor | None, embed: Callable[[Tensor], Tensor]) -> None:
    """Check that a whole text, sent again with more behind it, begins with what the cache holds.

    Args:
        columns: what the cache has seen, `n` columns.
        sent: token ids `[B, m]` or embeddings `[B, m, hidden]`, `m >= n`.
        mask: `[B, m]`, which columns of what is sent are real; where it is absent, padding is compared as well.
        embed: the model's input embeddings, for a cache that was filled with one and continued with the other.

    Raises:
        CacheMismatchError: another token; it names the first one of the first sequence that differs.
        UnsupportedError: ids and embeddings cannot be compared, because the model embeds something else than ids.
    """
    held, real = columns.tokens, columns.real
    sent = sent[:, : columns.length].to(held.device)
    new = tokens_of(sent)
    if sent.ndim == 2:
        differs = _differs(held, new, lambda: tokens_of(_embedded(embed, sent)))
    else:
        ids = held.clamp(min=0)
        differs = torch.where(held < _NO_ID, held != new, tokens_of(_embedded(embed, ids)) != new)
    differs &= real | mask[:, : columns.length].to(real) if mask is not None else True
    if bool(differs.any()):
        raise _mismatch(columns, new, differs)


def _embedded(embed: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
    try:
        found = embed(ids)
    except Exception:  # a model's own module, which may want anything
        found = None
    if not isinstance(found, Tensor) or found.ndim != 3 or found.shape[:2] != ids.shape:
        raise UnsupportedError(
            "input_ids",
            expected="ids that the model's input embeddings take, to compare them with columns that came as embeddings",
            got=f"{type(embed).__name__}, which does not",
            fix="Use a new LavaCache for each call of `generate`.",
        )
    return found


def _differs(held: Tensor, ids: Tensor, fingerprints: Callable[[], Tensor]) -> Tensor:
    """Where ids are not what is held; columns that came as embeddings are compared as such."""
    as_embeddings = held < _NO_ID
    if not bool(as_embeddings.any()):
        return held != ids
    return torch.where(as_embeddings, held != fingerprints(), held != ids)


def _mismatch(columns: Columns, new: Tensor, differs: Tensor) -> CacheMismatchError:
    sequence, column = (int(index) for index in differs.nonzero()[0])
    position = int(columns.real[sequence, :column].sum())
    return CacheMismatchError(
        "input_ids",
        expected=f"a text that goes on from the {columns.length} columns the cache holds, "
        f"{_name(columns.tokens[sequence, column])} as token {position} of sequence {sequence}",
        got=_name(new[sequence, column]),
        fix="Use a new LavaCache (or cache.reset()) for another text; to continue this one, send exactly the tokens "
        "it holds and new ones behind them (a chat template may rewrite earlier turns).",
    )


def _name(token: Any) -> str:
    return f"id {int(token)}" if token >= _NO_ID else "an embedding"
