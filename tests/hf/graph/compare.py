"""Generation with and without a graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import lavakv
from lavakv.hf.contract import cache_argument
from tests.hf import zoo
from tests.hf.helpers import lava_cache

NEW = 24


def model_of(kind: str = "llama", **settings: Any) -> nn.Module:
    """A tiny enabled model in float64, so that no rounding moves a token."""
    return lavakv.enable(zoo.tiny(kind, torch.float64, **settings))


def generate(model: nn.Module, cache: Any, ids: Tensor, **options: Any) -> Tensor:
    """Greedy tokens, unless the options say otherwise; no sequence ends early."""
    torch.manual_seed(11)
    asked = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None}
    return model.generate(ids, **cache_argument(model, cache), **asked | options)


def left_padded(batch: int, columns: int) -> Tensor:
    """A mask `[batch, columns]` that pads the first sequence by nine columns."""
    mask = torch.ones(batch, columns, dtype=torch.long)
    mask[0, :9] = 0
    return mask


def caches(model: nn.Module, **settings: Any) -> tuple[lavakv.LavaCache, lavakv.LavaCache]:
    """One that decodes without a graph and one that decodes through one."""
    return lava_cache(model, graph=False, **settings), lava_cache(model, **settings)


def assert_same_state(one: lavakv.LavaCache, other: lavakv.LavaCache) -> None:
    """Two caches hold the same positions, and know the same of their columns."""
    assert one.lengths().equal(other.lengths())
    mine, others = one._state.session, other._state.session
    assert mine.columns.real.equal(others.columns.real)
    assert mine.columns.tokens.equal(others.columns.tokens)
    for first, second in zip(mine.stores, others.stores, strict=True):
        assert first.num_columns == second.num_columns
        for a, b in zip(first.snapshot()[:3], second.snapshot()[:3], strict=True):
            assert torch.allclose(a.double(), b.double(), rtol=0, atol=1e-9)
        for a, b in zip(first.snapshot()[4:6], second.snapshot()[4:6], strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-9)
