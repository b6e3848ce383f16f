"""What several tests of the transformers integration share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

import lavakv
from lavakv.hf.contract import cache_argument
from lavakv.policy.registry import get_policy
from lavakv.scoring.window import ScoringWindow
from tests.hf import zoo

BUDGET = 24
WINDOW = 8
PROJECTING = tuple(name for name in lavakv.policies() if "output_weight" in get_policy(name).needs)


def position_score(window: ScoringWindow) -> Tensor:
    """Random scores that depend on layer, heads and prompt length only, so that no rounding moves a survivor."""
    generator = torch.Generator().manual_seed(window.layer)
    return torch.rand(window.queries.shape[0], window.num_evictable, generator=generator)


BY_POSITION = lavakv.Policy("by-position", "scores that no tensor's rounding can move", position_score)


def lava_cache(model: nn.Module, **settings: object) -> lavakv.LavaCache:
    """A cache with the small budget and window of these tests."""
    ways = {"budget", "keep", "max_bytes", "max_loss"} & settings.keys()
    return lavakv.LavaCache(model.config, **{**({} if ways else {"budget": BUDGET}), "window": WINDOW, **settings})


@torch.no_grad()
def feed(model: nn.Module, cache: object, chunks: Iterable[Tensor], **arguments: object) -> Tensor:
    """Logits of all chunks after the first, and of the first one's last token: `[B, tokens, vocabulary]`."""
    logits = []
    for index, ids in enumerate(chunks):
        output = model(input_ids=ids, **cache_argument(model, cache), use_cache=True, **arguments).logits
        logits.append(output if index else output[:, -1:])
    return torch.cat(logits, dim=1)


def split(ids: Tensor, lengths: Iterable[int]) -> list[Tensor]:
    """Cut ids `[B, tokens]` into chunks of these lengths."""
    return list(ids.split(list(lengths), dim=1))


def kept(cache: lavakv.LavaCache) -> list[list[int]]:
    """Kept positions of every layer, sequence and head, in this order."""
    shape = cache.lengths().shape
    return [
        cache.kept_positions(layer, sequence, head).tolist()
        for row, layer in enumerate(cache.layer_indices)
        for sequence in range(shape[1])
        for head in range(int((cache.budgets().head_entries[row, sequence] > 0).sum()))
    ]


def worst(one: Tensor, other: Tensor) -> float:
    """Largest absolute difference."""
    return float((one.double() - other.double()).abs().max())


def typical(one: Tensor, other: Tensor) -> float:
    """Root mean square difference, a steadier measure of rounding than the largest one."""
    return float((one.double() - other.double()).square().mean().sqrt())


@contextmanager
def refuses(kind: type[lavakv.LavaError], argument: str, got: str = "") -> Iterator[None]:
    """The block raises exactly this error class, and the error says what, expected, got and fix."""
    with pytest.raises(kind) as caught:
        yield
    error = caught.value
    assert type(error) is kind
    assert argument in error.argument
    assert got in error.got
    assert error.expected
    assert error.fix
    assert error.expected in str(error)
    assert error.fix in str(error)


def assert_like_new(model: nn.Module, cache: lavakv.LavaCache, fresh: lavakv.LavaCache) -> None:
    """The cache is empty and serves a prompt as a new one with the same settings does."""
    assert cache.get_seq_length() == 0
    assert cache.nbytes == 0
    assert cache.batch_size == -1
    chunks = split(zoo.prompt(44, seed=5), [40, 1, 3])
    assert torch.equal(feed(model, cache, chunks), feed(model, fresh, chunks))
    assert kept(cache) == kept(fresh)


def contents(cache: lavakv.LavaCache) -> list[Tensor]:
    """Copies of all tensors a cache holds, lengths and logical length included."""
    tensors = [cache.lengths(), torch.tensor([cache.get_seq_length(), cache.nbytes])]
    for index, layer in enumerate(cache.layers):
        if index in cache.layer_indices:
            past, tail = layer.store.past, layer.store.tail
            tensors += [past.keys, past.values, past.columns, tail.keys, tail.values]
        else:
            tensors += [tensor for tensor in vars(layer).values() if isinstance(tensor, Tensor)]
    return [tensor.clone() for tensor in tensors]


def assert_same_contents(before: list[Tensor], cache: lavakv.LavaCache) -> None:
    """The cache holds, bit for bit, what it held before."""
    after = contents(cache)
    assert len(before) == len(after)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
