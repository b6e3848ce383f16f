"""A cache that evicts after every turn stays within its budget, and both stores agree on what is left."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import lavakv
from lavakv import BudgetError, CacheStateError, InputError, PolicyError
from lavakv.hf.contract import cache_argument
from lavakv.policy.registry import get_policy
from tests.hf import zoo
from tests.hf.helpers import (
    BUDGET,
    BY_POSITION,
    WINDOW,
    assert_same_contents,
    contents,
    feed,
    kept,
    lava_cache,
    refuses,
    split,
    worst,
)

KINDS = ["llama", "qwen2", "gemma3_text", "gpt_oss"]
TURNS = [60, 1, 1, 20, 1, 5, 1, 1, 1, 30, 1, 1]
PROMPT_ONLY = [
    name for name in lavakv.policies() if get_policy(name).prompt_only or "hidden_states" in get_policy(name).needs
]
LATER = [name for name in lavakv.policies() if name not in PROMPT_ONLY]


@pytest.mark.parametrize("kind", KINDS)
def test_within_budget_after_every_turn(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    cache, reference = lava_cache(model, evict="turns"), lava_cache(model, evict="turns", store="masked")
    chunks = split(zoo.prompt(sum(TURNS)), TURNS)
    single = 0
    for chunk in chunks:
        assert worst(feed(model, cache, [chunk]), feed(model, reference, [chunk])) < 1e-12
        single = single + 1 if chunk.shape[1] == 1 else 0
        assert int(cache.lengths().sum()) == (BUDGET + single) * cache.lengths().numel()
        assert kept(cache) == kept(reference)
    seen = sum(TURNS)
    assert cache.get_seq_length() == seen
    assert all(positions[-WINDOW:] == list(range(seen - WINDOW, seen)) for positions in kept(cache))


@pytest.mark.parametrize("name", LATER)
def test_every_policy_that_judges_later_rounds(name: str) -> None:
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    cache, reference = (lava_cache(model, policy=name, evict="turns", store=store) for store in ("ragged", "masked"))
    chunks = split(zoo.prompt(sum(TURNS)), TURNS)
    assert worst(feed(model, cache, chunks), feed(model, reference, chunks)) < 1e-12
    assert kept(cache) == kept(reference)
    assert int(cache.lengths().sum()) == (BUDGET + 2) * cache.lengths().numel()


@pytest.mark.parametrize("name", PROMPT_ONLY)
@pytest.mark.parametrize("settings", [{"evict": "turns"}, {"max_tokens_per_head": 99}], ids=["turns", "bound"])
def test_policies_that_judge_whole_prompts_are_refused_at_once(name: str, settings: dict[str, object]) -> None:
    with refuses(PolicyError, name, "whole prompts only"):
        lava_cache(zoo.tiny("llama"), policy=name, **settings)


@pytest.mark.parametrize("policy", ["lava", "residual-max", "reach"])
def test_compress_is_what_a_turn_does(policy: str) -> None:
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    turns, manual = lava_cache(model, policy=policy, evict="turns"), lava_cache(model, policy=policy)
    chunks = split(zoo.prompt(100), [60, 30, 10])
    for chunk in chunks:
        feed(model, turns, [chunk])
        feed(model, manual, [chunk])
        found = manual.compress()
        assert found.head_entries.equal(manual.budgets().head_entries)
        assert kept(turns) == kept(manual)
    assert int(manual.lengths().sum()) == BUDGET * manual.lengths().numel()


def test_compress_where_nothing_exceeds_the_budget_evicts_nothing() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model, budget=100)
    feed(model, cache, split(zoo.prompt(60), [50, 10]))
    cache.compress()
    assert all(positions == list(range(60)) for positions in kept(cache))


def test_a_turn_shorter_than_the_window_is_judged_by_earlier_tokens_too() -> None:
    """The window spans forwards: what survives follows from the last tokens, however they came."""
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    found = []
    for way in ([70, 1, 1, 3], [70, 5], [70, 4, 1]):
        cache = lava_cache(model, policy="residual-max")
        feed(model, cache, split(zoo.prompt(75), way))
        cache.compress()
        found.append(kept(cache))
    assert found[0] == found[1] == found[2]


def test_rows_of_a_padded_batch_are_as_alone() -> None:
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    lengths, later = (50, 31), zoo.prompt(30, batch=2, seed=3)
    first = torch.zeros(2, 50, dtype=torch.long)
    for row, length in enumerate(lengths):
        first[row, 50 - length :] = zoo.prompt(length, seed=row)[0]
    mask = torch.cat([(first != 0).long(), torch.ones(2, 30, dtype=torch.long)], dim=1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = lava_cache(model, evict="turns", policy="residual-max")
    with torch.no_grad():
        for start, stop in ((0, 50), (50, 51), (51, 80)):
            ids = torch.cat([first, later], dim=1)[:, start:stop]
            model(ids, attention_mask=mask[:, :stop], position_ids=positions[:, start:stop], past_key_values=cache)
    for row, length in enumerate(lengths):
        alone = lava_cache(model, evict="turns", policy="residual-max")
        feed(model, alone, [first[row : row + 1, 50 - length :], later[row : row + 1, :1], later[row : row + 1, 1:]])
        assert cache.lengths()[:, row].equal(alone.lengths()[:, 0])
        assert all(
            cache.kept_positions(layer, row, head).equal(alone.kept_positions(layer, 0, head))
            for layer in cache.layer_indices
            for head in range(2)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_turns_through_generate_with_the_whole_text(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    caches = [lava_cache(model, evict="turns", store=store, policy=BY_POSITION) for store in ("ragged", "masked")]
    texts = [zoo.prompt(60), zoo.prompt(60)]
    for turn in range(3):
        for index, cache in enumerate(caches):
            options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
            told = model.generate(texts[index], past_key_values=cache, **options)
            texts[index] = torch.cat([told, zoo.prompt(9, seed=turn)], dim=1)
        assert texts[0].equal(texts[1])
        assert kept(caches[0]) == kept(caches[1])
    assert int(caches[0].lengths().sum()) == (BUDGET + 5) * caches[0].lengths().numel()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
@pytest.mark.parametrize("policy", ["lava", "residual-max"])
def test_copies_go_on_evicting(copied, policy: str) -> None:
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    cache = lava_cache(model, evict="turns", policy=policy)
    chunks = split(zoo.prompt(100), [60, 1, 3, 36])
    feed(model, cache, chunks[:2])
    twin = copied(cache)
    assert feed(model, cache, chunks[2:]).equal(feed(model, twin, chunks[2:]))
    assert kept(cache) == kept(twin)


def test_protected_positions_stay_through_all_turns() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model, evict="turns", protect=slice(2, 12))
    feed(model, cache, split(zoo.prompt(sum(TURNS)), TURNS))
    assert all(set(range(2, 12)) <= set(positions) for positions in kept(cache))
    assert int(cache.lengths().sum()) == (BUDGET + 2) * cache.lengths().numel()


@pytest.mark.parametrize("way", ["keep", "max_bytes"])
def test_other_ways_to_give_the_budget(way: str) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    entry = 2 * 16 * 4  # bytes of a key and a value of the tiny model
    probe = lava_cache(model)
    feed(model, probe, [zoo.prompt(60)])
    entry = probe.nbytes // int(probe.lengths().sum())
    settings = {"keep": 0.5} if way == "keep" else {"max_bytes": entry * 30 * probe.lengths().numel()}
    cache = lava_cache(model, evict="turns", **settings)
    for stop, chunk in zip((60, 100), split(zoo.prompt(100), [60, 40]), strict=True):
        feed(model, cache, [chunk])
        expected = stop // 2 if way == "keep" else 30
        assert int(cache.lengths().sum()) == expected * cache.lengths().numel()


@pytest.mark.parametrize(
    ("settings", "kind", "argument"),
    [
        ({"evict": "always"}, InputError, "evict"),
        ({"max_tokens_per_head": BUDGET}, BudgetError, "max_tokens_per_head"),
        ({"max_tokens_per_head": 30.5}, BudgetError, "max_tokens_per_head"),
        ({"max_tokens_per_head": True}, BudgetError, "max_tokens_per_head"),
        ({"protect": -1}, InputError, "protect"),
        ({"protect": "system"}, InputError, "protect"),
        ({"protect": slice(4)}, None, ""),
        ({"protect": slice(4, None)}, InputError, "protect"),
        ({"protect": slice(0, 9, 2)}, InputError, "protect"),
        ({"protect": BUDGET - WINDOW}, BudgetError, "protect"),
        ({"protect": BUDGET - WINDOW - 1}, None, ""),
    ],
)
def test_bad_settings(settings: dict[str, object], kind: type[lavakv.LavaError] | None, argument: str) -> None:
    if kind is None:
        lava_cache(zoo.tiny("llama"), **settings)
        return
    with refuses(kind, argument, repr(next(iter(settings.values()))) if kind is InputError else ""):
        lava_cache(zoo.tiny("llama"), **settings)


def test_protected_beyond_a_kept_fraction_is_refused_and_the_cache_stays_empty() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model, keep=0.25, protect=20)
    with refuses(BudgetError, "protect", "20"):
        feed(model, cache, [zoo.prompt(60)])
    assert cache.get_seq_length() == 0
    feed(model, cache, [zoo.prompt(160)])


def test_compress_refuses_an_empty_cache_and_a_policy_for_whole_prompts() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    with refuses(CacheStateError, "cache", "an empty cache"):
        cache.compress()
    cache = lava_cache(model, policy="kvzip")
    feed(model, cache, split(zoo.prompt(70), [60, 10]))
    before = kept(cache)
    with refuses(PolicyError, "kvzip", "whole prompts only"):
        cache.compress()
    assert kept(cache) == before


@pytest.mark.parametrize("settings", [{"evict": "turns"}, {"max_tokens_per_head": 30}], ids=["turns", "bound"])
def test_questions_of_unequal_lengths_below_the_window_evict_too(settings: dict[str, object]) -> None:
    """Columns of padding judge nobody: the tokens behind them do."""
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    caches = [lava_cache(model, store=store, policy=BY_POSITION, **settings) for store in ("ragged", "masked")]
    mask = torch.ones(2, 70, dtype=torch.long)
    mask[1, :5] = mask[1, 50:53] = 0
    ids, logits = zoo.prompt(70, batch=2), []
    for cache in caches:
        for start, stop in ((0, 50), (50, 56), *((column, column + 1) for column in range(56, 70))):
            with torch.no_grad():
                given = {"attention_mask": mask[:, :stop], **cache_argument(model, cache)}
                output = model(ids[:, start:stop], **given).logits[:, -1]
            if stop == 56:
                assert int(cache.lengths().sum()) == BUDGET * cache.lengths().numel()
        logits.append(output)
    assert torch.allclose(*logits, rtol=1e-10, atol=1e-10)
    assert kept(caches[0]) == kept(caches[1])


@pytest.mark.parametrize("settings", [{"evict": "turns"}, {"max_tokens_per_head": 30}], ids=["turns", "bound"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_turn_padded_on_the_right_is_refused_before_it_is_read(kind: str, settings: dict[str, object]) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    cache, twin = (lava_cache(model, policy=BY_POSITION, **settings) for _ in range(2))
    for one in (cache, twin):
        feed(model, one, [zoo.prompt(50, batch=2)])
    before, mask = contents(cache), torch.ones(2, 56, dtype=torch.long)
    mask[1, -2:] = 0
    with refuses(InputError, "columns", "padding"):
        feed(model, cache, [zoo.prompt(6, batch=2)], attention_mask=mask)
    assert_same_contents(before, cache)
    chunks = split(zoo.prompt(17, batch=2), [7, 1, 9])
    assert feed(model, cache, chunks).equal(feed(model, twin, chunks))
    assert kept(cache) == kept(twin)


@pytest.mark.parametrize("settings", [{"evict": "turns"}, {"max_tokens_per_head": 60}], ids=["turns", "bound"])
def test_bytes_that_more_sequences_do_not_fit_into_are_refused_before_a_turn_is_read(
    settings: dict[str, object],
) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    probe = lava_cache(model)
    feed(model, probe, [zoo.prompt(60)])
    cache = lava_cache(model, max_bytes=probe.nbytes, **settings)
    feed(model, cache, [zoo.prompt(60)])
    cache.expand(4)
    before = contents(cache)
    with refuses(BudgetError, "max_bytes"):
        feed(model, cache, [zoo.prompt(40, batch=4)])
    assert_same_contents(before, cache)
    cache.select([0])
    feed(model, cache, [zoo.prompt(40)])
    assert int(cache.lengths().sum()) <= BUDGET * cache.lengths().numel()
