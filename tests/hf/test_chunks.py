"""Long prompts in chunks: exact (all held until the end) and streaming (evicted after each)."""

from __future__ import annotations

import pytest
import torch

import lavakv
from lavakv import CacheStateError, PolicyError, UnsupportedError
from lavakv.hf.contract import cache_argument
from lavakv.hf.generate import chunks_go_on
from lavakv.policy.registry import get_policy
from tests.hf import zoo
from tests.hf.helpers import BUDGET, WINDOW, feed, kept, lava_cache, refuses, split, worst

KINDS = ["llama", "qwen2", "gemma3_text", "gpt_oss"]
POLICIES = [
    name
    for name in lavakv.policies()
    if not {"prompt", "replay", "hidden_states"} & set(get_policy(name).needs) and not get_policy(name).prompt_only
]
NEEDS_ALL = [name for name in lavakv.policies() if name not in POLICIES]
WAYS = [[100], [90, 10], [30, 30, 30, 10], [97, 1, 1, 1], [WINDOW - 3, 40, 57 - WINDOW], [*[10] * 10]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_exact_mode_keeps_what_one_forward_keeps(kind: str, way: list[int]) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    cache, reference = lava_cache(model), lava_cache(model)
    prompt, later = zoo.prompt(sum(way)), split(zoo.prompt(9, seed=1), [1, 3, 1, 4])
    expected = feed(model, reference, [prompt])
    with cache.prompt_in_chunks() as same:
        assert same is cache
        got = feed(model, cache, split(prompt, way))[:, -1:]
    assert worst(got, expected) < 1e-12
    assert kept(cache) == kept(reference)
    assert cache.budgets().head_entries.equal(reference.budgets().head_entries)
    assert worst(feed(model, cache, later), feed(model, reference, later)) < 1e-12


@pytest.mark.parametrize("policy", POLICIES)
def test_exact_mode_with_every_policy_that_needs_the_window_alone(policy: str) -> None:
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    cache, reference = lava_cache(model, policy=policy), lava_cache(model, policy=policy)
    feed(model, reference, [zoo.prompt(80)])
    with cache.prompt_in_chunks():
        feed(model, cache, split(zoo.prompt(80), [33, 33, 10, 4]))
    assert kept(cache) == kept(reference)


@pytest.mark.parametrize("policy", NEEDS_ALL)
def test_policies_that_need_all_queries_are_refused_by_name(policy: str) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache, streaming = lava_cache(model, policy=policy), None
    with refuses(PolicyError, policy), cache.prompt_in_chunks():
        raise AssertionError
    with refuses(PolicyError, policy):
        model.generate(zoo.prompt(60), past_key_values=cache, prefill_chunk_size=20, max_new_tokens=2)
    if not get_policy(policy).prompt_only and "hidden_states" not in get_policy(policy).needs:
        streaming = lava_cache(model, policy=policy, evict="turns")
        with refuses(PolicyError, policy):
            model.generate(zoo.prompt(60), past_key_values=streaming, prefill_chunk_size=20, max_new_tokens=2)
    for one in filter(None, (cache, streaming)):
        assert one.get_seq_length() == 0
        feed(model, one, [zoo.prompt(60)])
        assert int(one.lengths().sum()) == BUDGET * one.lengths().numel()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 7, 25, 60, 99])
def test_generate_in_chunks_equals_generate(kind: str, size: int) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    cache, reference = lava_cache(model), lava_cache(model)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    got = model.generate(zoo.prompt(60), past_key_values=cache, prefill_chunk_size=size, **options)
    assert got.equal(model.generate(zoo.prompt(60), past_key_values=reference, **options))
    assert kept(cache) == kept(reference)


def test_a_padded_batch_in_chunks_whose_first_is_all_padding_for_a_row() -> None:
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    mask = torch.ones(2, 60, dtype=torch.long)
    mask[1, :25] = 0
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    ids, caches = zoo.prompt(60, batch=2), [lava_cache(model), lava_cache(model)]
    expected = model.generate(ids, past_key_values=caches[0], **options)
    got = model.generate(ids, past_key_values=caches[1], prefill_chunk_size=20, **options)
    assert got.equal(expected)
    assert kept(caches[0]) == kept(caches[1])


@pytest.mark.parametrize("kind", KINDS)
def test_streaming_stays_within_budget_and_chunk(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    cache, reference = (lava_cache(model, evict="turns", store=store) for store in ("ragged", "masked"))
    for chunk in split(zoo.prompt(200), [20] * 10):
        assert worst(feed(model, cache, [chunk]), feed(model, reference, [chunk])) < 1e-12
        assert int(cache.lengths().sum()) <= BUDGET * cache.lengths().numel()
    assert kept(cache) == kept(reference)
    fed = lava_cache(model, evict="turns")
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    text = model.generate(zoo.prompt(200), past_key_values=fed, prefill_chunk_size=20, **options)
    more = feed(model, cache, split(text[:, 200:-1], [1] * 7))
    assert kept(fed) == kept(cache)
    assert more[:, -1].argmax(-1).equal(text[:, -1])


def test_a_second_turn_in_chunks_is_appended() -> None:
    """Where only the first context is compressed, later chunks are as later tokens."""
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    caches = [lava_cache(model, max_new_tokens=99) for _ in range(2)]
    text, _ = (model.generate(zoo.prompt(60), past_key_values=cache, **options) for cache in caches)
    text = torch.cat([text, zoo.prompt(30, seed=2)], dim=1)
    if not chunks_go_on(type(model)):
        before = kept(caches[0])
        with refuses(UnsupportedError, "prefill_chunk_size", "holds 63 columns"):
            model.generate(text, past_key_values=caches[0], prefill_chunk_size=8, **options)
        assert kept(caches[0]) == before
        return
    told = [
        model.generate(text, past_key_values=caches[0], prefill_chunk_size=8, **options),
        model.generate(text, past_key_values=caches[1], **options),
    ]
    assert told[0].equal(told[1])
    assert kept(caches[0]) == kept(caches[1])


def test_a_prompt_that_stops_half_way_leaves_an_empty_cache() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    with pytest.raises(ZeroDivisionError):
        _stop_half_way(model, cache)
    assert cache.get_seq_length() == cache.nbytes == 0
    stop = model.model.layers[1].register_forward_pre_hook(_Fails(3))
    with pytest.raises(ZeroDivisionError):
        model.generate(zoo.prompt(60), past_key_values=cache, prefill_chunk_size=10, max_new_tokens=2)
    stop.remove()
    assert cache.get_seq_length() == cache.nbytes == 0
    feed(model, cache, [zoo.prompt(60)])
    assert int(cache.lengths().sum()) == BUDGET * cache.lengths().numel()


def test_chunks_of_a_prompt_need_an_empty_cache() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, [zoo.prompt(60)])
    before = kept(cache)
    with refuses(CacheStateError, "cache", "holds a prompt"), cache.prompt_in_chunks():
        raise AssertionError
    assert kept(cache) == before


def _stop_half_way(model: torch.nn.Module, cache: lavakv.LavaCache) -> None:
    with cache.prompt_in_chunks():
        feed(model, cache, [zoo.prompt(30)])
        raise ZeroDivisionError


class _Fails:
    """A hook that fails at its n-th call."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, *_: object) -> None:
        self.left -= 1
        if not self.left:
            raise ZeroDivisionError


def test_generate_inside_a_prompt_in_chunks_is_refused_and_the_chunks_stay() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache, prompt = lava_cache(model), zoo.prompt(60)
    with cache.prompt_in_chunks():
        feed(model, cache, [prompt[:, :40]])
        with refuses(CacheStateError, "cache", "chunks of one"):
            model.generate(prompt, **cache_argument(model, cache), max_new_tokens=3)
        assert cache.get_seq_length() == 40
        feed(model, cache, [prompt[:, 40:]])
    reference = lava_cache(model)
    feed(model, reference, [prompt])
    assert kept(cache) == kept(reference)
