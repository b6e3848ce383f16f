"""Variable-length attention of other libraries over ragged heads: each head of each sequence is a sequence to them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import accumulate

import torch
from torch import Tensor

from lavakv.bench.ragged_case import RaggedCase

_FUNCTIONS = {
    "torch": ("torch.nn.attention.varlen", "varlen_attn"),
    "flash_attn": ("flash_attn", "flash_attn_varlen_func"),
}


def packed_varlen(library: str, case: RaggedCase) -> Callable[[], Tensor]:
    """A call that attends to all heads of a compressed layer, survivors and tail packed into one buffer beforehand.

    Args:
        library: `torch` (`torch.nn.attention.varlen`) or `flash_attn`.
        case: the layer.

    Returns:
        Gives `[batch, query_heads, 1, head_dim]`.

    Raises:
        ImportError: the library is not there.
    """
    module, name = _FUNCTIONS[library]
    function: Callable[..., Tensor] = getattr(import_module(module), name)
    queries = case.request.queries
    segments = case.segments()
    rows = queries.shape[1] * queries.shape[0] // len(segments)
    keys, values = (torch.cat(parts)[:, None] for parts in zip(*segments, strict=True))
    lengths = [segment[0].shape[0] for segment in segments]
    stops = list(accumulate(lengths, initial=0))
    starts_q = torch.arange(0, rows * len(segments) + 1, rows, dtype=torch.int32, device=queries.device)
    starts_k = torch.tensor(stops, dtype=torch.int32, device=queries.device)
    flat = queries.reshape(-1, 1, queries.shape[3])
    return partial(_called, function, queries.shape, flat, keys, values, starts_q, starts_k, rows, max(lengths))


def _called(function: Callable[..., Tensor], shape: torch.Size, *args: object) -> Tensor:
    return function(*args).view(shape)
