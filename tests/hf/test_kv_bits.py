"""A `LavaCache` with survivors in 8 and 4 bits, against the masked store with the same."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn

import lavakv
from lavakv import BudgetError, InputError, UnsupportedError
from lavakv.hf.contract import cache_argument
from lavakv.store.quantiser import Quantiser
from tests.hf import zoo
from tests.hf.helpers import BUDGET, BY_POSITION, WINDOW, feed, kept, lava_cache, refuses, split, typical, worst

BITS = pytest.mark.parametrize("bits", [8, 4])
KINDS = ["llama", "qwen2", "gemma2", "gemma3_text", "gpt_oss", "gpt2", "gemma4_text", "falcon_h1"]
PROMPT, STEPS = 64, [64, 1, 1, 3, 1]
FACTOR = 2.0  # as in test_architectures.py


def _logits(model: nn.Module, **settings: object) -> Tensor:
    return feed(model, lava_cache(model, policy=BY_POSITION, **settings), split(zoo.prompt(sum(STEPS)), STEPS))


@BITS
@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_those_of_the_masked_store(kind: str, bits: int) -> None:
    """In float64 to ten digits, in float32 no further apart than without bits; and no warning of any path."""
    model = lavakv.enable(zoo.tiny(kind))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain, ours = (
            [_logits(model, store=store, kv_bits=each) for store in ("ragged", "masked")] for each in (None, bits)
        )
        model.to(torch.float64)
        exact = [_logits(model, store=store, kv_bits=bits) for store in ("ragged", "masked")]
    assert worst(*exact) < 1e-10
    ulp = torch.finfo(torch.float32).eps * float(exact[0].square().mean().sqrt())
    assert typical(*ours) <= FACTOR * typical(*plain) + ulp
    assert worst(ours[0], plain[0]) > 10 * worst(*ours), "quantisation must show"


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_more_bits_are_nearer(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    full, *few = (_logits(model, kv_bits=bits) for bits in (None, 8, 4))
    assert 0 < 4 * typical(few[0], full) < typical(few[1], full)


@BITS
def test_padded_batches_equal_their_rows_alone(bits: int) -> None:
    model, ids = lavakv.enable(zoo.tiny("llama", torch.float64)), zoo.prompt(70, batch=2)
    mask = torch.ones_like(ids)
    mask[1, :21] = 0
    caches = [lava_cache(model, policy=BY_POSITION, store=store, kv_bits=bits) for store in ("ragged", "masked")]
    rows = []
    for cache in caches:
        first = feed(model, cache, [ids[:, :-4]], attention_mask=mask[:, :-4])
        rows.append(torch.cat([first, feed(model, cache, [ids[:, -4:]], attention_mask=mask)], dim=1))
    assert kept(caches[0]) == kept(caches[1])
    assert worst(*rows) < 1e-10
    assert not torch.equal(rows[0], rows[0].flip(0))


@BITS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama", "gemma4_text"])
def test_bytes_are_exact_after_a_prefill(kind: str, dtype: torch.dtype, bits: int) -> None:
    model = lavakv.enable(zoo.tiny(kind, dtype))
    cache = lava_cache(model, kv_bits=bits)
    feed(model, cache, [zoo.prompt(PROMPT, batch=2)])
    ours = 0
    for row, index in enumerate(cache.layer_indices):
        size = cache.layers[index].store.tail.keys.shape[3]
        lengths = cache.lengths()[row]
        window = WINDOW * int((lengths > 0).sum())
        ours += 2 * (Quantiser(bits, size).row_bytes * (int(lengths.sum()) - window) + size * dtype.itemsize * window)
    others = lava_cache(model)
    feed(model, others, [zoo.prompt(PROMPT, batch=2)])
    compressed = sum(others.layers[index].store.nbytes for index in others.layer_indices)
    assert cache.nbytes == ours + others.nbytes - compressed
    assert sum(cache.bytes_by_sequence()) == cache.nbytes
    assert cache.lengths().equal(others.lengths())


@pytest.mark.parametrize("lengths", [[64], [64, 64], [64, 20]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_bytes_hold_more_entries_of_fewer_bits(kind: str, dtype: torch.dtype, lengths: list[int]) -> None:
    """Where half the bytes of the smaller cache do not hold everything already."""
    model, ids = lavakv.enable(zoo.tiny(kind, dtype)), zoo.prompt(max(lengths), batch=len(lengths))
    mask = (torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]).long()
    given, held = lava_cache(model, budget=WINDOW + 6), []
    feed(model, given, [ids], attention_mask=mask)
    for bits in (None, 8, 4):
        cache = lava_cache(model, max_bytes=given.nbytes, kv_bits=bits)
        feed(model, cache, [ids], attention_mask=mask)
        assert cache.nbytes <= given.nbytes
        held.append(int(cache.lengths().sum()))
    assert held[0] == int(given.lengths().sum())
    assert held[0] < held[1] < held[2]


def test_the_largest_budget_that_fits_is_taken() -> None:
    model, ids = lavakv.enable(zoo.tiny("llama")), zoo.prompt(PROMPT)
    heads, row = 3 * 2, 2 * Quantiser(4, 8).row_bytes
    least = heads * (WINDOW * 2 * 8 * 4 + row)
    for more in (0, 1, 7):
        for spare in (0, heads * row - 1):
            cache = lava_cache(model, max_bytes=least + more * heads * row + spare, kv_bits=4)
            feed(model, cache, [ids])
            assert cache.nbytes == least + more * heads * row
    small = lava_cache(model, max_bytes=least - 1, kv_bits=4)
    with refuses(BudgetError, "max_bytes", str(least - 1)):
        feed(model, small, [ids])


@BITS
@pytest.mark.parametrize("store", ["ragged", "masked"])
def test_a_copy_and_a_reset_cache_go_on_alike(bits: int, store: str) -> None:
    model, chunks = lavakv.enable(zoo.tiny("llama")), split(zoo.prompt(sum(STEPS)), STEPS)
    cache = lava_cache(model, store=store, kv_bits=bits, max_new_tokens=9)
    with torch.no_grad():
        model(chunks[0], **cache_argument(model, cache))
    twins = [copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))]
    expected = feed(model, cache, chunks[1:])
    for twin in twins:
        assert feed(model, twin, chunks[1:]).equal(expected)
        assert kept(twin) == kept(cache)
    cache.reset()
    assert cache.nbytes == 0
    feed(model, cache, chunks[:1])
    assert feed(model, cache, chunks[1:]).equal(expected)
    assert f"kv_bits={bits}" in repr(cache)


@BITS
def test_greedy_text_is_that_of_the_masked_store(bits: int) -> None:
    model, ids = lavakv.enable(zoo.tiny("llama")), zoo.prompt(PROMPT)
    model.generation_config.eos_token_id = None
    texts = [
        model.generate(ids, **cache_argument(model, cache), max_new_tokens=20)
        for cache in (lava_cache(model, store=store, kv_bits=bits) for store in ("ragged", "masked"))
    ]
    assert texts[0].equal(texts[1])
    assert texts[0].shape == (1, PROMPT + 20)


def test_without_bits_nothing_changes() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    assert _logits(model).equal(_logits(model, kv_bits=None))
    assert "kv_bits" not in repr(lava_cache(model))


@pytest.mark.parametrize("bits", [2, 16, "8", True, 4.0])
def test_other_bits_are_refused_when_the_cache_is_made(bits: object) -> None:
    with refuses(InputError, "kv_bits", repr(bits)):
        lavakv.LavaCache(zoo.tiny_config("llama"), kv_bits=bits)


def test_heads_that_no_group_divides_are_refused_when_the_cache_is_made() -> None:
    config = zoo.tiny_config("qwen3", head_dim=12)
    lavakv.LavaCache(config, budget=BUDGET)
    for store in ("ragged", "masked"):
        with refuses(UnsupportedError, "kv_bits", "heads of 12"):
            lavakv.LavaCache(config, budget=BUDGET, kv_bits=4, store=store)


@BITS
def test_crops_into_a_past_that_has_evicted_nothing(bits: int) -> None:
    """The rows of bytes stay what they are; they are not quantised again."""
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    found = []
    for store in ("ragged", "masked"):
        cache = lava_cache(model, budget=100, store=store, kv_bits=bits)
        feed(model, cache, [zoo.prompt(60)])
        cache.crop(-20)
        with torch.no_grad():
            found.append(model(zoo.prompt(5, seed=1), **cache_argument(model, cache)).logits)
    assert worst(*found) < 1e-10
