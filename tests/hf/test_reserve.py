"""Room for new tokens that is made at once."""

from __future__ import annotations

import copy

import pytest
import torch

import lavakv
from lavakv import InputError
from tests.hf import zoo
from tests.hf.helpers import BUDGET, feed, lava_cache, refuses, split


def _places(cache: lavakv.LavaCache) -> list[int]:
    """Where the buffers of all compressed layers are."""
    return [buffer.data_ptr() for index in cache.layer_indices for buffer in cache.layers[index].store.tail.buffers]


@torch.no_grad()
def _continue(model: torch.nn.Module, cache: lavakv.LavaCache, tokens: int) -> torch.Tensor:
    chunks = zoo.prompt(tokens, seed=3).split(1, dim=1)
    return torch.cat([model(ids, past_key_values=cache).logits for ids in chunks])


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
@pytest.mark.parametrize("way", ["before", "after", "argument"])
def test_buffers_stay_where_they_are(kind: str, way: str) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    plain, cache = lava_cache(model), lava_cache(model, **({"max_new_tokens": 100} if way == "argument" else {}))
    if way == "before":
        cache.reserve(100)
    ids = zoo.prompt(60)
    feed(model, plain, [ids])
    feed(model, cache, [ids])
    if way == "after":
        cache.reserve(100)
    places, nbytes = _places(cache), cache.nbytes
    head_bytes = 2 * model.config.head_dim * 4 * model.config.num_key_value_heads if kind != "llama" else 2 * 8 * 4 * 2
    assert nbytes == plain.nbytes + 100 * head_bytes * len(cache.layer_indices)
    assert torch.equal(_continue(model, cache, 100), _continue(model, plain, 100))
    assert _places(cache) == places
    if kind == "llama":  # others have layers that grow
        assert cache.nbytes == nbytes
    assert torch.equal(_continue(model, cache, 5), _continue(model, plain, 5))
    assert cache.get_seq_length() == plain.get_seq_length() == 165
    assert torch.equal(cache.lengths(), plain.lengths())


def test_room_is_made_again_after_a_reset_and_in_a_copy() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model, max_new_tokens=7)
    feed(model, cache, [zoo.prompt(60)])
    nbytes, twin = cache.nbytes, copy.deepcopy(cache)
    places = _places(twin)
    assert twin.nbytes == nbytes
    feed(model, twin, split(zoo.prompt(7), [1] * 7))
    assert _places(twin) == places
    cache.reset()
    assert cache.nbytes == 0
    feed(model, cache, [zoo.prompt(60)])
    assert cache.nbytes == nbytes


def test_the_oracle_makes_room_too() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model, store="masked", max_new_tokens=50)
    feed(model, cache, [zoo.prompt(60)])
    assert cache.nbytes == 3 * 2 * 2 * (60 + 50) * 8 * 4


@pytest.mark.parametrize("value", [-1, 2.0, True, "8"])
def test_bad_numbers_of_tokens(value: object) -> None:
    with refuses(InputError, "max_new_tokens", repr(value)):
        lavakv.LavaCache(zoo.tiny_config("llama"), BUDGET, max_new_tokens=value)
    cache = lavakv.LavaCache(zoo.tiny_config("llama"), BUDGET)
    with refuses(InputError, "max_new_tokens", repr(value)):
        cache.reserve(value)
