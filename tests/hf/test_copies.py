"""Copies, reset and threads: one prefix for many questions, one model for many caches."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import lavakv
from lavakv.policy.rules import Policy
from lavakv.scoring.gates import GatedScore, KVzapGate
from tests.hf import zoo
from tests.hf.helpers import assert_like_new, assert_same_contents, contents, feed, kept, lava_cache, split

KINDS = ["llama", "gemma3_text", "gpt_oss", "gpt2", "qwen3_next"]
PROMPT = zoo.prompt(50)


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_questions_on_copies_of_one_prefix(kind: str, grad: bool) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    cache = lava_cache(model)
    with torch.set_grad_enabled(grad):
        model(PROMPT, past_key_values=cache)
    before = contents(cache)
    for seed in (1, 2):
        question = zoo.prompt(4, seed=seed)
        twin, separate = copy.deepcopy(cache), lava_cache(model)
        expected = feed(model, separate, [PROMPT, *split(question, [3, 1])])
        got = feed(model, twin, split(question, [3, 1]))
        assert got.equal(expected[:, -2:])
        assert kept(twin) == kept(separate)
        assert_same_contents(before, cache)


def test_copy_shares_no_memory_and_wastes_none() -> None:
    model = lavakv.enable(zoo.tiny("gemma3_text"))
    cache = lava_cache(model)
    feed(model, cache, [PROMPT, zoo.prompt(3)])
    twin = copy.deepcopy(cache)
    assert twin.nbytes == cache.nbytes
    for index in cache.layer_indices:
        mine, other = cache.layers[index].store, twin.layers[index].store
        assert mine.past.keys.data_ptr() != other.past.keys.data_ptr()
        assert mine.tail.keys.data_ptr() != other.tail.keys.data_ptr()
        keys, values = other.past.segments[1]
        assert keys.untyped_storage().data_ptr() == other.past.keys.untyped_storage().data_ptr()
        assert values.untyped_storage().data_ptr() == other.past.values.untyped_storage().data_ptr()


def test_copy_of_an_empty_cache_works() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    assert_like_new(model, copy.deepcopy(lava_cache(model)), lava_cache(model))


@pytest.mark.parametrize("kind", KINDS)
def test_reset_makes_a_cache_as_new(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    cache = lava_cache(model)
    feed(model, cache, [zoo.prompt(50, batch=2, seed=3), zoo.prompt(2, batch=2)])
    cache.reset()
    with pytest.raises(lavakv.CacheStateError):
        cache.lengths()
    assert_like_new(model, cache, lava_cache(model))


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt_oss"])
def test_threads_with_a_cache_each_give_the_serial_results(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind))

    def work(seed: int) -> tuple[torch.Tensor, list[list[int]]]:
        cache = lava_cache(model, budget=20 + seed)
        ids = zoo.prompt(60 + seed, seed=seed)
        options = {"max_new_tokens": 15, "do_sample": False, "eos_token_id": None}
        return model.generate(ids, past_key_values=cache, **options), kept(cache)

    serial = [work(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for (text, held), (expected, expected_held) in zip(pool.map(work, range(4)), serial, strict=True):
                assert text.equal(expected)
                assert held == expected_held


def _gates(num_layers: int) -> Policy:
    generator = torch.Generator().manual_seed(0)
    gates = [KVzapGate(torch.randn(2, 32, generator=generator), torch.zeros(2)) for _ in range(num_layers)]
    score = GatedScore(gates, keeps_first=False)
    return Policy("gates", "", score, layer_rule="pool", floor_share=0.0, needs=("hidden_states",))


@pytest.mark.parametrize("name", ["gates", "kvzip+", "reach"])
def test_a_forward_of_another_thread_between_a_layer_and_its_attention_changes_nothing(name: str) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    policy, other, inside = _gates(3) if name == "gates" else name, zoo.prompt(50, seed=4) + 1, threading.local()

    def read(ids: torch.Tensor) -> list[list[int]]:
        cache = lava_cache(model, policy=policy)
        with torch.no_grad():
            model(ids, past_key_values=cache)
        return kept(cache)

    def elsewhere(*_: object) -> None:
        if not hasattr(inside, "other"):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(second).result()

    def second() -> None:
        inside.other = True
        found.append(read(other))

    found: list[list[list[int]]] = []
    expected, expected_other = read(PROMPT), read(other)
    assert expected != expected_other
    hooks = [layer.input_layernorm.register_forward_hook(elsewhere) for layer in model.model.layers]
    assert read(PROMPT) == expected
    assert found == [expected_other] * len(found) != []
    for hook in hooks:
        hook.remove()
