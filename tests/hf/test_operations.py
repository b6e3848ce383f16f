"""What is done to a filled cache between forwards: the masked store is the oracle, or a cache of transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

import lavakv
from lavakv import CacheStateError, InputError, UnsupportedError
from lavakv.errors import HiddenTensorError
from lavakv.hf.contract import cache_argument
from tests.hf import zoo
from tests.hf.generation import ABOVE, KINDS, PROMPT
from tests.hf.helpers import assert_same_contents, contents, feed, kept, lava_cache, refuses, split

PADDING = [0, 7]


@torch.no_grad()
def forward(model: nn.Module, cache: object, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits of new tokens; `mask` is that of all columns so far, those of `ids` included."""
    positions = mask.cumsum(dim=1).sub(1).clamp(min=0)[:, -ids.shape[1] :]
    return model(
        input_ids=ids, attention_mask=mask, position_ids=positions, **cache_argument(model, cache), use_cache=True
    ).logits


def padded(tokens: int, padding: list[int] = PADDING, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and mask `[B, tokens]` of a batch that is padded on the left."""
    ids, mask = zoo.prompt(tokens, batch=len(padding), seed=seed), torch.ones(len(padding), tokens, dtype=torch.long)
    for row, count in enumerate(padding):
        mask[row, :count] = 0
    return ids, mask


def lead(model: nn.Module, cache: object, padding: list[int] = PADDING) -> list[Tensor]:
    """Take a cache through all that can happen to it; returns the logits of every forward."""
    ids, mask = padded(PROMPT, padding)
    logits = [forward(model, cache, ids, mask)[:, -1:]]
    cache.activate_past_recording()

    def go_on(count: int, seed: int) -> None:
        nonlocal mask
        cache.crop(0)  # transformers 5.17 needs it between two forwards that it records
        mask = torch.cat([mask, mask.new_ones(mask.shape[0], count)], dim=1)
        logits.append(forward(model, cache, zoo.prompt(count, batch=mask.shape[0], seed=seed), mask))

    def move(operation: Callable[[], object], rows: list[int]) -> None:
        nonlocal mask
        operation()
        mask = mask[rows]

    def crop(count: int) -> None:
        nonlocal mask
        cache.crop(-count)
        mask = mask[:, : mask.shape[1] - count]

    go_on(3, seed=1)
    move(lambda: cache.reorder_cache(torch.tensor([1, 0])), [1, 0])
    go_on(1, seed=2)
    crop(1)
    go_on(4, seed=3)
    move(lambda: cache.batch_repeat_interleave(3), [0, 0, 0, 1, 1, 1])
    go_on(1, seed=4)
    move(lambda: cache.reorder_cache(torch.tensor([0, 0, 2, 5, 4, 4])), [0, 0, 2, 5, 4, 4])
    go_on(2, seed=5)
    crop(2)
    move(lambda: cache.batch_select_indices(torch.tensor([4, 0, 1])), [4, 0, 1])
    go_on(1, seed=6)
    return logits


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    """Equal but for the rounding of float64."""
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [PADDING, [0, 0], [0, PROMPT - 3]], ids=["padded", "plain", "a short row"])
def test_operations_agree_with_the_oracle(kind: str, padding: list[int]) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    ragged, masked = lava_cache(model), lava_cache(model, store="masked")
    assert_close(lead(model, ragged, padding), lead(model, masked, padding))
    assert kept(ragged) == kept(masked)
    assert ragged.lengths().equal(masked.lengths())
    assert ragged.batch_size == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("store", ["ragged", "masked"])
def test_operations_agree_with_a_dynamic_cache_where_nothing_is_evicted(kind: str, store: str) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    stock = DynamicCache(config=model.config)
    assert_close(lead(model, lava_cache(model, budget=ABOVE, store=store), [0, 0]), lead(model, stock, [0, 0]))


@pytest.mark.parametrize("kind", ["falcon_h1", "qwen3_next"])
def test_recurrent_states_move_along(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    chunks = split(zoo.prompt(PROMPT + 3, batch=3), [PROMPT, 3])
    cache, stock = lava_cache(model, budget=ABOVE), DynamicCache(config=model.config)
    for one in (cache, stock):
        feed(model, one, [chunks[0]])
        one.reorder_cache(torch.tensor([2, 0, 0]))
    with torch.no_grad():
        found, expected = (model(chunks[1], **cache_argument(model, one)).logits for one in (cache, stock))
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("store", ["ragged", "masked"])
def test_one_context_and_many_questions(store: str) -> None:
    """Each row of an expanded cache is what the cache was."""
    model = lavakv.enable(zoo.tiny("gemma3_text", torch.float64))
    context, questions = zoo.prompt(PROMPT), zoo.prompt(6, batch=3, seed=4)
    cache = lava_cache(model, store=store)
    feed(model, cache, [context])
    alone = [feed(model, copy.deepcopy(cache), [questions[:0, :0], row[None]][1:]) for row in questions]
    cache.expand(3)
    assert cache.lengths().shape[1] == cache.batch_size == 3
    assert torch.allclose(feed(model, cache, [questions]), torch.cat(alone), rtol=1e-10, atol=1e-10)


def test_sequences_with_the_same_past_move_their_tails_alone() -> None:
    """Beams of one prompt: no entry of the past is copied, and the reserved columns stay where they are."""
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model, max_new_tokens=16)
    feed(model, cache, [zoo.prompt(PROMPT, batch=2)])
    cache.expand(3)
    stores = [cache.layers[index].store for index in cache.layer_indices]
    pasts, buffers = [store.past for store in stores], [store.tail.buffers[0].data_ptr() for store in stores]
    capacity = stores[0].tail.buffers[0].shape[2]
    for seed, order in enumerate([[2, 0, 1, 3, 3, 4], [0, 0, 0, 5, 4, 3], [0, 1, 2, 3, 4, 5]]):
        feed(model, cache, [zoo.prompt(1, batch=6, seed=seed)])
        before = [store.tail.keys[order].clone() for store in stores]
        cache.reorder_cache(torch.tensor(order))
        assert all(store.past is past for store, past in zip(stores, pasts, strict=True))
        assert all(store.tail.keys.equal(tail) for store, tail in zip(stores, before, strict=True))
        assert [store.tail.buffers[0].data_ptr() for store in stores] == buffers
    cache.reorder_cache(torch.tensor([3, 1, 2, 0, 4, 5]))
    assert not any(store.past is past for store, past in zip(stores, pasts, strict=True))
    assert stores[0].tail.buffers[0].shape[2] == capacity


def test_the_first_reordering_of_beams_makes_their_pasts_one() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, [zoo.prompt(PROMPT).expand(3, -1)])
    cache.reorder_cache(torch.tensor([0, 0, 0]))
    store = cache.layers[0].store
    past = store.past
    copy.deepcopy(cache).reorder_cache(torch.tensor([2, 1, 0]))
    cache.reorder_cache(torch.tensor([2, 1, 0]))
    assert store.past is past
    for head in range(2):
        assert (
            store.read(0, head)
            .keys[: len(past.segments[head][0])]
            .equal(store.read(2, head).keys[: len(past.segments[head][0])])
        )


BAD_ROWS = [[2, 0], [-3], [], [[0, 1]], [0.5, 1.0]]


@pytest.mark.parametrize("rows", BAD_ROWS, ids=str)
@pytest.mark.parametrize("name", ["reorder_cache", "batch_select_indices"])
def test_rows_that_are_not_there_are_refused(name: str, rows: list) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, [zoo.prompt(PROMPT, batch=2)])
    before = contents(cache)
    with refuses(InputError, "sequences"):
        getattr(cache, name)(torch.tensor(rows))
    assert_same_contents(before, cache)


def test_rows_by_mask_and_from_the_end() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, [zoo.prompt(PROMPT, batch=3)])
    positions = [cache.kept_positions(0, row, 0) for row in range(3)]
    cache.batch_select_indices(torch.tensor([True, False, True]))
    assert [cache.kept_positions(0, row, 0).tolist() for row in range(2)] == [positions[row].tolist() for row in (0, 2)]
    cache.batch_select_indices(torch.tensor([-1]))
    assert cache.kept_positions(0, 0, 0).equal(positions[2])


@pytest.mark.parametrize("copies", [0, -1, 1.0, True])
def test_copies_that_cannot_be_made_are_refused(copies: object) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    with refuses(CacheStateError, "cache"):
        cache.expand(2)
    feed(model, cache, [zoo.prompt(PROMPT)])
    with refuses(InputError, "num_copies", repr(copies)):
        cache.expand(copies)
    assert cache.batch_size == 1


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_an_empty_cache_has_nothing_to_move(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    cache, chunks = lava_cache(model), split(zoo.prompt(PROMPT + 1), [PROMPT, 1])
    assert not cache.is_initialized
    cache.reorder_cache(torch.tensor([0]))
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([0]))
    cache.crop(0)
    cache.crop(-3)
    assert cache.is_croppable
    assert feed(model, cache, chunks).equal(feed(model, lava_cache(model), chunks))
    assert cache.is_initialized


def test_operations_on_the_layers_are_those_of_the_cache() -> None:
    """As transformers' own cache does it: layer after layer."""
    model = lavakv.enable(zoo.tiny("llama"))
    one = lava_cache(model, budget=ABOVE)
    feed(model, one, split(zoo.prompt(PROMPT + 4, batch=2), [PROMPT, 4]))
    other = copy.deepcopy(one)
    one.crop(-2)
    one.reorder_cache(torch.tensor([1, 0]))
    one.batch_repeat_interleave(2)
    one.batch_select_indices(torch.tensor([3, 0]))
    for layer in other.layers:
        layer.crop(-2)
        layer.reorder_cache(torch.tensor([1, 0]))
        layer.store.select([0, 0, 1, 1])
        layer.store.select([3, 0])
        assert layer.num_columns == PROMPT + 2
    for ours, theirs in zip(one.layers, other.layers, strict=True):
        found, expected = ours.store.snapshot(), theirs.store.snapshot()
        assert all(torch.equal(a, b) for a, b in zip(found[:6], expected[:6], strict=True))
    with refuses(UnsupportedError, "emptying one layer"):
        one.layers[0].reset()


def test_keys_and_values_cannot_be_looped_over() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    with refuses(HiddenTensorError, "keys and values"):
        list(lava_cache(model))


def test_a_failed_move_leaves_a_cache_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, [zoo.prompt(PROMPT, batch=2)])

    def fails(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(cache.layers[1].store, "select", fails)
    with pytest.raises(MemoryError):
        cache.reorder_cache(torch.tensor([1, 0]))
    with refuses(CacheStateError, "cache"):
        cache.lengths()
    cache.reset()
    feed(model, cache, [zoo.prompt(PROMPT)])
