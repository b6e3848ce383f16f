"""What a cache has allocated, and what stays alive."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import lavakv
from lavakv.store.growing import MIN_SPARE
from tests.hf import zoo
from tests.hf.helpers import BUDGET, WINDOW, feed, lava_cache

PROMPT = 173  # a length that nothing else has
ITEM = {torch.float32: 4, torch.bfloat16: 2}


@pytest.fixture
def quick_collector() -> Iterator[None]:
    """Hide what was imported so far from the garbage collector, whose scans take a second each otherwise."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def _large_storages() -> set[int]:
    """Addresses of all tensor storages that could hold one layer's keys, or values, of the whole prompt."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) is Tensor]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {storage.data_ptr() for storage in storages if storage.nbytes() >= PROMPT * 2 * 8 * 4}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "qwen3_moe"])
def test_bytes_are_exact_after_a_prefill(kind: str, dtype: torch.dtype) -> None:
    model = lavakv.enable(zoo.tiny(kind, dtype))
    cache = lava_cache(model)
    feed(model, cache, [zoo.prompt(PROMPT, batch=2)])
    assert int(cache.lengths().sum()) == BUDGET * cache.lengths().numel()
    assert cache.nbytes == int(cache.lengths().sum()) * 2 * 8 * ITEM[dtype]


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text", "gpt_oss", "cohere2"])
def test_bytes_count_sliding_layers(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    cache = lava_cache(model)
    feed(model, cache, [zoo.prompt(PROMPT)])
    sliding = (len(cache.layers) - len(cache.layer_indices)) * 2 * (8 - 1)
    assert cache.nbytes == (int(cache.lengths().sum()) + sliding) * 2 * 8 * 4


def test_spare_room_comes_with_the_first_token_and_grows_geometrically() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, [zoo.prompt(PROMPT)])
    exact, column = cache.nbytes, 3 * 2 * 2 * 8 * 4
    sizes = []
    for _ in range(120):
        feed(model, cache, [zoo.prompt(1)])
        sizes.append((cache.nbytes - exact) // column)
    assert sizes[0] == MIN_SPARE
    assert len(set(sizes)) < 5
    assert all(step + 1 <= size <= max(MIN_SPARE, 2 * (step + 1 + WINDOW)) for step, size in enumerate(sizes))


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt_oss", "qwen3_next", "gpt2"])
@pytest.mark.usefixtures("quick_collector")
def test_nothing_of_the_prompts_size_stays_alive(kind: str, grad: bool) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    ids, before = zoo.prompt(PROMPT), _large_storages()
    cache = lava_cache(model)
    with torch.set_grad_enabled(grad):
        output = model(ids, past_key_values=cache, logits_to_keep=1)
    assert bool(_large_storages() - before) == grad, "a graph, and only that, keeps the prompt's keys alive"
    del output
    assert not _large_storages() - before
    # With gradients Qwen3-Next writes into a state that its own graph holds: a cycle no collector sees, whatever cache.
    with torch.set_grad_enabled(grad and kind != "qwen3_next"):
        model(ids[:, :3], past_key_values=cache)
    assert not _large_storages() - before
    oracle = lava_cache(model, store="masked")
    feed(model, oracle, [ids])
    assert len(_large_storages() - before) >= 2 * len(oracle.layer_indices), "the scan must see a whole layer"


def test_appended_token_copies_nothing() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, [zoo.prompt(PROMPT), zoo.prompt(1)])
    stores = [layer.store for layer in cache.layers]

    def addresses() -> list[int]:
        return [t.data_ptr() for s in stores for t in (s.past.keys, s.past.values, s.tail.keys, s.tail.values)]

    before, old = addresses(), [store.tail.keys.clone() for store in stores]
    versions = [store.past.keys._version for store in stores]
    feed(model, cache, [zoo.prompt(1)] * (MIN_SPARE - 1))
    assert addresses() == before
    assert [store.past.keys._version for store in stores] == versions
    assert all(s.tail.keys[:, :, : o.shape[2]].equal(o) for s, o in zip(stores, old, strict=True))
    feed(model, cache, [zoo.prompt(1)])
    assert addresses() != before


@pytest.mark.parametrize("kind", ["gemma3_text", "gemma4_text", "gpt_oss"])
@pytest.mark.parametrize("max_bytes", [80000, 120000])
def test_turns_stay_within_bytes_with_sliding_layers(kind: str, max_bytes: int) -> None:
    """A sliding layer holds its window of a turn, and keeps nothing larger alive."""
    model = lavakv.enable(zoo.tiny(kind))
    cache = lava_cache(model, max_bytes=max_bytes, evict="turns")
    for length in (100, 40, 60):
        feed(model, cache, [zoo.prompt(length)])
        assert cache.nbytes <= max_bytes
