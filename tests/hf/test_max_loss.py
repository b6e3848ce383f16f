"""`max_loss`: the least budget whose estimated loss is tolerated, found for each sequence at the end of its prompt."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lavakv
from lavakv import BudgetError, PolicyError
from lavakv.budgets.spec import BudgetSpec
from lavakv.hf.fan_out import FanOutCache
from lavakv.hf.recorder import record
from lavakv.policy.registry import get_policy
from tests.hf import zoo
from tests.hf.helpers import WINDOW, assert_like_new, feed, kept, lava_cache, refuses, split, worst

KINDS = ["llama", "gemma3_text", "gpt_oss"]
POLICIES = ["lava", "snapkv", "pyramidkv", "residual-max", "laprox", "h2o", "kvzip"]
MAX_LOSS = 0.4


def found(cache: lavakv.LavaCache) -> list[int]:
    """Tokens per head of each sequence."""
    return [int(one) for one in cache.budgets().tokens_per_head]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", POLICIES)
def test_it_is_the_least_budget_within_the_tolerance(kind: str, policy: str) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    chunks = split(zoo.prompt(79), [70, 1, 3, 1, 4])
    if policy == "kvzip" and kind != "llama":
        pytest.skip("replays need full-attention layers only")
    cache, masked = (lava_cache(model, policy=policy, max_loss=MAX_LOSS, store=store) for store in ("ragged", "masked"))
    logits = feed(model, cache, chunks)
    assert worst(logits, feed(model, masked, chunks)) < 1e-12
    (budget,) = found(cache)
    assert WINDOW < budget < 70
    assert float(cache.budgets().relative_loss) <= MAX_LOSS
    same, less = (lava_cache(model, policy=policy, budget=one) for one in (budget, budget - 1))
    assert logits.equal(feed(model, same, chunks))
    assert kept(cache) == kept(masked) == kept(same)
    for mine, other in zip(cache.budgets(), same.budgets(), strict=True):
        assert mine.equal(other)
    feed(model, less, chunks[:1])
    assert budget == WINDOW + 1 or float(less.budgets().relative_loss) > MAX_LOSS


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_of_a_padded_batch_get_the_budget_they_get_alone(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    lengths = [70, 45, WINDOW + 1, WINDOW, 3]
    ids, mask = torch.zeros(len(lengths), 70, dtype=torch.long), torch.zeros(len(lengths), 70, dtype=torch.long)
    rows = [zoo.prompt(length, seed=length) for length in lengths]
    for row, one in enumerate(rows):
        ids[row, 70 - one.shape[1] :], mask[row, 70 - one.shape[1] :] = one[0], 1
    batch = lava_cache(model, max_loss=MAX_LOSS)
    feed(model, batch, [ids], attention_mask=mask)
    assert found(batch)[2:] == lengths[2:]
    for row, one in enumerate(rows):
        alone = lava_cache(model, max_loss=MAX_LOSS)
        feed(model, alone, [one])
        assert found(batch)[row] == found(alone)[0]
        heads = batch.lengths().shape[2]
        for layer in batch.layer_indices:
            for head in range(heads):
                assert batch.kept_positions(layer, row, head).equal(alone.kept_positions(layer, 0, head))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["lava", "residual-max", "kvzip"])
def test_a_recording_fills_it_as_a_forward_does(kind: str, policy: str) -> None:
    if policy == "kvzip" and kind != "llama":
        pytest.skip("replays need full-attention layers only")
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    recording = record(model, zoo.prompt(70))
    caches = [lava_cache(model, policy=policy, max_loss=loss) for loss in (0.2, 0.5)]
    for cache in caches:
        forward = copy.deepcopy(cache)
        recording.fill(cache)
        feed(model, forward, [zoo.prompt(70)])
        assert kept(cache) == kept(forward)
        for mine, other in zip(cache.budgets(), forward.budgets(), strict=True):
            assert mine.allclose(other, rtol=1e-12)
    specs = [
        BudgetSpec(window=WINDOW, max_loss=0.2),
        BudgetSpec(24, window=WINDOW),
        BudgetSpec(window=WINDOW, max_loss=0.5),
    ]
    rows = recording.fill(FanOutCache(model.config, [policy] * 3, specs), 3)
    assert found(rows) == [*found(caches[0]), 24, *found(caches[1])]


def test_a_prompt_within_the_window_decides_nothing_and_the_next_turn_does() -> None:
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    for length in (1, WINDOW, WINDOW + 1):
        cache = lava_cache(model, max_loss=MAX_LOSS, evict="turns")
        feed(model, cache, [zoo.prompt(length)])
        assert found(cache) == [length]
        assert cache.budgets().relative_loss.tolist() == [0.0]
        feed(model, cache, [zoo.prompt(70, seed=2)])
        (budget,) = found(cache)
        assert WINDOW < budget < 70
        assert 0 < float(cache.budgets().relative_loss) <= MAX_LOSS
        feed(model, cache, [zoo.prompt(50, seed=3)])
        assert found(cache) == [budget]
        assert int(cache.lengths().sum()) == budget * cache.lengths().numel()


def test_the_budget_found_for_the_prompt_holds_on() -> None:
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    turns = split(zoo.prompt(160), [70, 30, 60])
    cache, reference = lava_cache(model, max_loss=MAX_LOSS, evict="turns"), None
    for turn in turns:
        logits = feed(model, cache, [turn])
        if reference is None:
            reference = lava_cache(model, budget=found(cache)[0], evict="turns")
        assert logits.equal(feed(model, reference, [turn]))
        assert kept(cache) == kept(reference)
    assert reference is not None
    once = lava_cache(model, max_loss=MAX_LOSS, max_new_tokens=99)
    feed(model, once, turns)
    once.compress()
    assert int(once.lengths().sum()) == found(reference)[0] * once.lengths().numel()


def test_a_bound_goes_before_the_tolerance() -> None:
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    cache, free = lava_cache(model, max_loss=0.05, max_tokens_per_head=40), lava_cache(model, max_loss=0.05)
    feed(model, cache, split(zoo.prompt(170), [70, *[1] * 100]))
    feed(model, free, [zoo.prompt(70)])
    assert found(free)[0] > 40
    assert int(cache.lengths().sum()) <= 40 * cache.lengths().numel()
    with refuses(BudgetError, "protect", "30"):
        feed(model, lava_cache(model, max_loss=0.05, max_tokens_per_head=40, protect=30), [zoo.prompt(70)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_in_chunks_ends_as_in_one_forward(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    one, chunked, single = (lava_cache(model, max_loss=MAX_LOSS, protect=3) for _ in range(3))
    feed(model, one, [zoo.prompt(80)])
    with chunked.prompt_in_chunks():
        feed(model, chunked, split(zoo.prompt(80), [30, 30, 20]))
    with single.prompt_in_chunks():
        feed(model, single, [zoo.prompt(80)])
    assert kept(one) == kept(chunked) == kept(single)
    assert all(set(range(3)) <= set(head) for head in kept(one))
    texts = [
        model.generate(
            zoo.prompt(80),
            past_key_values=lava_cache(model, max_loss=MAX_LOSS),
            max_new_tokens=6,
            do_sample=False,
            **more,
        )
        for more in ({}, {"prefill_chunk_size": 25})
    ]
    assert texts[0].equal(texts[1])


@pytest.mark.parametrize("value", [-0.01, 1, 1.0, 5, float("nan"), float("inf"), True, "0.05", [0.05]])
def test_bad_tolerances(value: object) -> None:
    with refuses(BudgetError, "max_loss", repr(value)):
        lavakv.LavaCache(zoo.tiny_config("llama"), max_loss=value)


def test_one_way_to_give_the_budget() -> None:
    for name, value in {"budget": 24, "keep": 0.5, "max_bytes": "1MiB"}.items():
        with refuses(BudgetError, f"{name} and max_loss"):
            lavakv.LavaCache(zoo.tiny_config("llama"), max_loss=0.1, **{name: value})


@pytest.mark.parametrize("policy", [p for p in lavakv.policies() if "tokens_per_head" in get_policy(p).needs])
def test_policies_that_score_for_one_budget_are_refused(policy: str) -> None:
    config = zoo.tiny_config("llama")
    with refuses(PolicyError, policy, "one budget"):
        lavakv.LavaCache(config, policy=policy, max_loss=0.1)
    specs = [BudgetSpec(24, window=WINDOW), BudgetSpec(window=WINDOW, max_loss=0.1)]
    with refuses(PolicyError, policy, "one budget"):
        FanOutCache(config, ["lava", policy], specs)
    FanOutCache(config, [policy, "lava"], specs)


def test_a_loss_that_is_no_number_is_an_error_and_the_cache_stays_empty() -> None:
    model = lavakv.enable(zoo.tiny("llama"))

    def by_position(window: lavakv.ScoringWindow) -> Tensor:
        return window.candidate_positions.float()

    policy = replace(get_policy("snapkv"), name="by-position", score=by_position)
    cache = lava_cache(model, policy=policy, max_loss=0.1)
    weight = model.model.layers[-1].self_attn.v_proj.weight
    before = weight[0, 0].item()
    with torch.no_grad():
        weight[0, 0] = float("inf")
        with refuses(BudgetError, "max_loss"):
            feed(model, cache, [zoo.prompt(60)])
        weight[0, 0] = before
    assert_like_new(model, cache, lava_cache(model, policy=policy, max_loss=0.1))


def test_none_tolerated_keeps_all_that_counts() -> None:
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    cache = lava_cache(model, max_loss=0)
    feed(model, cache, [zoo.prompt(60)])
    assert found(cache) == [60]
    assert cache.budgets().relative_loss.tolist() == [0.0]


def test_a_saved_context_goes_on_with_the_budget_that_was_found(tmp_path: Path) -> None:
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    for length in (70, WINDOW):  # found, and still to be found
        cache = lava_cache(model, max_loss=MAX_LOSS, evict="turns")
        feed(model, cache, [zoo.prompt(length)])
        cache.save(tmp_path / "context.safetensors")
        loaded = lavakv.LavaCache.load(tmp_path / "context.safetensors", model)
        assert found(loaded) == found(cache)
        assert loaded.budgets().relative_loss.equal(cache.budgets().relative_loss)
        for turn in (zoo.prompt(40, seed=2), zoo.prompt(30, seed=3)):
            assert feed(model, loaded, [turn]).equal(feed(model, cache, [turn]))
            assert kept(loaded) == kept(cache)


def test_sequences_that_are_moved_keep_their_budgets() -> None:
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    cache = lava_cache(model, max_loss=MAX_LOSS, evict="turns")
    feed(model, cache, [zoo.prompt(70, batch=2)])
    budgets = found(cache)
    cache.reorder_cache(torch.tensor([1, 0]))
    assert found(cache) == budgets[::-1]
    feed(model, cache, [zoo.prompt(40, seed=2, batch=2)])
    assert found(cache) == budgets[::-1]


@pytest.mark.parametrize("kind", ["qwen3_next", "falcon_h1"])
def test_batches_of_models_with_recurrent_layers(kind: str) -> None:
    """Only a replay copies what layers beside the compressed ones hold of each sequence."""
    model, ids = lavakv.enable(zoo.tiny(kind, torch.float64)), zoo.prompt(70, batch=2)
    cache = lava_cache(model, max_loss=MAX_LOSS)
    feed(model, cache, [ids])
    for row in range(2):
        alone = lava_cache(model, max_loss=MAX_LOSS)
        feed(model, alone, [ids[row : row + 1]])
        assert found(cache)[row] == found(alone)[0]


def test_rows_that_move_take_their_policies_and_budgets_along() -> None:
    model, ids = lavakv.enable(zoo.tiny("llama", torch.float64)), zoo.prompt(70)
    policies, specs = ["lava", "snapkv"], [BudgetSpec(24, window=WINDOW), BudgetSpec(16, window=WINDOW)]
    rows = FanOutCache(model.config, policies, specs)
    record(model, ids).fill(rows, 2)
    rows.reorder_cache(torch.tensor([1, 0]))
    rows.expand(2)
    feed(model, rows, [zoo.prompt(20, seed=1).expand(4, -1)])
    assert rows.compress().tokens_per_head.tolist() == [16, 16, 24, 24]
    for row, (policy, spec) in zip((0, 2), zip(policies[::-1], specs[::-1], strict=True), strict=True):
        alone = lava_cache(model, policy=policy, budget=spec.budget)
        feed(model, alone, [ids, zoo.prompt(20, seed=1)])
        alone.compress()
        for layer in alone.layer_indices:
            assert rows.kept_positions(layer, row, 1).equal(alone.kept_positions(layer, 0, 1))
    rows.reset()
    record(model, ids).fill(rows, 2)
    assert found(rows) == [24, 16]
