"""A bound on what a cache holds while tokens come one by one."""

from __future__ import annotations

import pytest
import torch

import lavakv
from tests.hf import zoo
from tests.hf.helpers import BUDGET, BY_POSITION, WINDOW, feed, kept, lava_cache, split, worst

KINDS = ["llama", "qwen2", "gemma3_text", "gpt_oss"]
BOUND = 40


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["lava", "residual-max", "layer-defensivekv"])
def test_the_total_never_exceeds_it_and_stores_agree(kind: str, policy: str) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    settings = {"policy": policy, "max_tokens_per_head": BOUND}
    cache, reference = lava_cache(model, **settings), lava_cache(model, store="masked", **settings)
    most = 0
    for chunk in split(zoo.prompt(160), [60, *[1] * 100]):
        assert worst(feed(model, cache, [chunk]), feed(model, reference, [chunk])) < 1e-12
        assert kept(cache) == kept(reference)
        held = int(cache.lengths().sum())
        assert BUDGET * cache.lengths().numel() <= held < BOUND * cache.lengths().numel()
        most = max(most, held)
    assert most == (BOUND - 1) * cache.lengths().numel()  # the round comes with the last token that fits


def test_bytes_stay_flat_and_buffers_are_allocated_once_a_round() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model, max_tokens_per_head=BOUND)
    feed(model, cache, [zoo.prompt(60)])
    entry = cache.nbytes / (cache.lengths().numel() * BOUND)
    addresses = set()
    for chunk in split(zoo.prompt(200, seed=2), [1] * 200):
        feed(model, cache, [chunk])
        assert cache.nbytes == entry * cache.lengths().numel() * BOUND
        store = cache.layers[cache.layer_indices[0]].store
        addresses.add((store.past.keys.data_ptr(), id(store.tail)))
    assert len(addresses) <= 200 // (BOUND - BUDGET) + 2


def test_a_prompt_within_the_budget_is_bounded_as_well() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model, max_tokens_per_head=BOUND)
    feed(model, cache, split(zoo.prompt(110), [10, *[1] * 100]))
    assert int(cache.lengths().sum()) < BOUND * cache.lengths().numel()
    assert all(positions[-WINDOW:] == list(range(110 - WINDOW, 110)) for positions in kept(cache))


def test_a_chunk_may_pass_it_until_its_forward_ends() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model, max_tokens_per_head=BOUND)
    feed(model, cache, split(zoo.prompt(130), [60, 1, 69]))
    assert int(cache.lengths().sum()) == BUDGET * cache.lengths().numel()


@pytest.mark.parametrize("settings", [{"keep": 0.9}, {"max_bytes": "1MiB"}])
def test_a_relative_budget_stays_below_it(settings: dict[str, object]) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model, max_tokens_per_head=80, **settings)
    for chunk in split(zoo.prompt(240), [100, *[1] * 140]):
        feed(model, cache, [chunk])
        assert int(cache.lengths().sum()) < 80 * cache.lengths().numel()


def test_sequences_of_a_padded_batch_are_bounded_each() -> None:
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    ids = zoo.prompt(100, batch=2)
    mask = torch.ones(2, 100, dtype=torch.long)
    mask[1, :20] = 0
    cache = lava_cache(model, max_tokens_per_head=BOUND, policy=BY_POSITION)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        for start, stop in [(0, 50), *((i, i + 1) for i in range(50, 100))]:
            own = {"attention_mask": mask[:, :stop], "position_ids": positions[:, start:stop]}
            model(ids[:, start:stop], past_key_values=cache, **own)
            assert int(cache.lengths().sum(dim=(0, 2)).max()) < BOUND * cache.lengths()[:, 0].numel()
    alone = lava_cache(model, max_tokens_per_head=BOUND, policy=BY_POSITION)
    feed(model, alone, split(ids[1:, 20:], [30, *[1] * 50]))
    assert kept(alone) == [
        cache.kept_positions(layer, 1, head).tolist() for layer in cache.layer_indices for head in range(2)
    ]


def test_through_generate() -> None:
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    texts = []
    for store in ("ragged", "masked"):
        cache = lava_cache(model, max_tokens_per_head=BOUND, store=store)
        options = {"max_new_tokens": 90, "do_sample": False, "eos_token_id": None}
        texts.append(model.generate(zoo.prompt(50), past_key_values=cache, **options))
        assert int(cache.lengths().sum()) < BOUND * cache.lengths().numel()
        assert cache.get_seq_length() == 139
    assert texts[0].equal(texts[1])
