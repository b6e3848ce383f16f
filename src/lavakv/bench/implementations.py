"""Implementations of one layer's attention in a decode step, lavakv's and others'."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from lavakv.attention import attend
from lavakv.bench.fake_keys import fake_keys
from lavakv.bench.ragged_case import LayerShape, RaggedCase
from lavakv.bench.settings import Setting

_VARLEN_FUNCTIONS = {
    "torch": ("torch.nn.attention.varlen", "varlen_attn"),
    "flash_attn": ("flash_attn", "flash_attn_varlen_func"),
}
_COLD_BYTES = 2**28  # several times any cache: every call must read its keys from memory, as in a real step
_MAX_COPIES = 64


@dataclass(frozen=True, slots=True)
class Implementation:
    """One implementation, on copies of the layer that together exceed any cache.

    Attributes:
        calls: one for each copy.
        nbytes: bytes of keys and values that each call reads.
        backend: the backend that scaled dot-product attention must use, or None for those that `without_cudnn` allows.
    """

    calls: list[Callable[[], Tensor]]
    nbytes: int
    backend: SDPBackend | None = None

    def around(self) -> AbstractContextManager[Any]:
        """Context to enter around the calls."""
        return nullcontext() if self.backend is None else sdpa_kernel(self.backend)


class Implementations:
    """All implementations for one layer and setting, made on demand.

    Args:
        shape: the layer.
        setting: prompt, batch and budget.
        window: last tokens, which every head keeps.
    """

    def __init__(self, shape: LayerShape, setting: Setting, window: int) -> None:
        self._shape, self._setting, self._window = shape, setting, window
        self._entry = 2 * shape.head_dim * shape.dtype.itemsize
        self._held = setting.batch_size * shape.kv_heads * setting.held * self._entry
        self.all: dict[str, Callable[[], Implementation]] = {
            "full_flash": lambda: self._dense(setting.tokens, packed=False),
            "full_flash_packed": lambda: self._dense(setting.tokens, packed=True),
            "cut_flash": lambda: self._dense(setting.held, packed=False),
            "cut_flash_packed": lambda: self._dense(setting.held, packed=True),
            "masked": lambda: self._masked(fake=False),
            "masked_fake_keys": lambda: self._masked(fake=True),
            "lavakv": self._lavakv,
            "torch_varlen": lambda: self._varlen("torch"),
            "flash_attn_varlen": lambda: self._varlen("flash_attn"),
        }

    def _copies(self, nbytes: int) -> range:
        return range(min(-(-_COLD_BYTES // nbytes), _MAX_COPIES))

    def case(self, copy: int) -> RaggedCase:
        """A copy of the compressed layer."""
        return RaggedCase.made_up(self._shape, self._setting, self._window, copy)

    def _key_values(self, tokens: int, copy: int) -> tuple[Tensor, Tensor]:
        sizes = (self._setting.batch_size, self._shape.kv_heads, tokens, self._shape.head_dim)
        return self._shape.normal(*sizes, seed=2 * copy), self._shape.normal(*sizes, seed=2 * copy + 1)

    def _query(self, copy: int, packed: bool) -> Tensor:
        batch, shape = self._setting.batch_size, self._shape
        query = shape.queries(batch, copy)
        return query.reshape(batch, shape.kv_heads, -1, shape.head_dim) if packed else query

    def _dense(self, tokens: int, packed: bool) -> Implementation:
        nbytes = self._setting.batch_size * self._shape.kv_heads * tokens * self._entry
        calls: list[Callable[[], Tensor]] = [
            partial(
                scaled_dot_product_attention,
                self._query(copy, packed), *self._key_values(tokens, copy),
                enable_gqa=not packed and self._shape.query_heads > self._shape.kv_heads,
            )
            for copy in self._copies(nbytes)
        ]  # fmt: skip
        return Implementation(calls, nbytes, SDPBackend.FLASH_ATTENTION)

    def _masked(self, fake: bool) -> Implementation:
        setting, shape = self._setting, self._shape
        nbytes = setting.batch_size * shape.kv_heads * setting.tokens * self._entry
        calls: list[Callable[[], Tensor]] = []
        for copy in self._copies(nbytes):
            hidden = torch.rand(setting.batch_size, shape.kv_heads, setting.tokens, device=shape.device)
            hidden = hidden > setting.held / setting.tokens
            keys, values = self._key_values(setting.tokens, copy)
            query = self._query(copy, packed=True)
            if fake:
                calls.append(partial(_attend_fake, query, keys, values, hidden[..., None]))
            else:
                mask = torch.zeros(hidden.shape, dtype=shape.dtype, device=shape.device)
                mask = mask.masked_fill_(hidden, -torch.inf)[:, :, None]
                calls.append(partial(scaled_dot_product_attention, query, keys, values, attn_mask=mask))
        return Implementation(calls, nbytes, SDPBackend.FLASH_ATTENTION if fake else None)

    def _lavakv(self) -> Implementation:
        cases = [self.case(copy) for copy in self._copies(self._held)]
        return Implementation([partial(attend, case.store, case.request) for case in cases], self._held)

    def _varlen(self, library: str) -> Implementation:
        calls = [packed_varlen(library, self.case(copy)) for copy in self._copies(self._held)]
        return Implementation(calls, self._held)


def _attend_fake(query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
    """Attention without a mask, with fake keys for hidden entries; `query` is `[B, H, group, head_dim]`."""
    fake = fake_keys(query.reshape(query.shape[0], -1, 1, query.shape[3]), keys.shape[1], query.shape[3] ** -0.5)
    return scaled_dot_product_attention(query, torch.where(hidden, fake[:, :, None], keys), values)


def packed_varlen(library: str, case: RaggedCase) -> Callable[[], Tensor]:
    """A call of variable-length attention in which each head of each sequence is a sequence, packed beforehand.

    Args:
        library: `torch` (`torch.nn.attention.varlen`) or `flash_attn`.
        case: the layer.

    Returns:
        Gives `[batch, query_heads, 1, head_dim]`.

    Raises:
        ImportError: the library is not installed.
    """
    module, name = _VARLEN_FUNCTIONS[library]
    function: Callable[..., Tensor] = getattr(import_module(module), name)
    queries = case.request.queries
    segments = case.segments()
    rows = queries.shape[1] * queries.shape[0] // len(segments)
    keys, values = (torch.cat(own)[:, None] for own in zip(*segments, strict=True))
    lengths = [segment[0].shape[0] for segment in segments]
    stops = list(accumulate(lengths, initial=0))
    starts_q = torch.arange(0, rows * len(segments) + 1, rows, dtype=torch.int32, device=queries.device)
    starts_k = torch.tensor(stops, dtype=torch.int32, device=queries.device)
    flat = queries.reshape(-1, 1, queries.shape[3])
    return partial(_called, function, queries.shape, flat, keys, values, starts_q, starts_k, rows, max(lengths))


def _called(function: Callable[..., Tensor], shape: torch.Size, *args: object) -> Tensor:
    return function(*args).view(shape)
