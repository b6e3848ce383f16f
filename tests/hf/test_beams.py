"""Beam search and several answers: the masked store is the oracle, or a `DynamicCache` where nothing is evicted."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import DynamicCache

import lavakv
from lavakv import InputError
from lavakv.hf.contract import cache_argument
from lavakv.store.past import RaggedPast
from tests.hf import zoo
from tests.hf.generation import ABOVE, KINDS, NEW, PROMPT, assert_same, generate, text
from tests.hf.helpers import feed, kept, lava_cache, refuses, split

BEAMS: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 3},
    "several beams back": {"num_beams": 4, "num_return_sequences": 2},
    "sampled beams": {"num_beams": 3, "do_sample": True},
    "early stop": {"num_beams": 3, "early_stopping": True, "length_penalty": 0.5},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", BEAMS)
@pytest.mark.parametrize("padding", [0, 9])
def test_beams(kind: str, mode: str, padding: int) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    ids, mask = text(batch=2), torch.ones(2, PROMPT, dtype=torch.long)
    mask[1, :padding] = 0
    options = {**BEAMS[mode], "attention_mask": mask}
    ragged, masked = lava_cache(model), lava_cache(model, store="masked")
    assert_same(generate(model, ragged, ids, **options), generate(model, masked, ids, **options))
    assert kept(ragged) == kept(masked)
    assert ragged.batch_size == 2 * BEAMS[mode]["num_beams"]
    stock = DynamicCache(config=model.config)
    above = generate(model, lava_cache(model, budget=ABOVE), ids, **options)
    assert_same(above, generate(model, stock, ids, **options))


def test_beams_copy_no_past_after_their_first_step(monkeypatch: pytest.MonkeyPatch) -> None:

    model, copied = lavakv.enable(zoo.tiny("llama")), []
    original = RaggedPast.selected
    monkeypatch.setattr(RaggedPast, "selected", lambda *args: copied.append(1) or original(*args))
    cache = lava_cache(model)
    generate(model, cache, text(batch=2), num_beams=3)
    assert len(copied) == len(cache.layer_indices)
    filled = lava_cache(model)
    feed(model, filled, [zoo.prompt(PROMPT)])
    copied.clear()
    generate(model, filled, torch.cat([zoo.prompt(PROMPT), zoo.prompt(3, seed=2)], dim=1), num_beams=3)
    assert len(copied) == len(cache.layer_indices)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
@pytest.mark.parametrize("expanded", [False, True], ids=["by generate", "by the caller"])
def test_several_answers_from_a_filled_cache(kind: str, expanded: bool) -> None:
    model, ids = lavakv.enable(zoo.tiny(kind, torch.float64)), text(batch=2)
    sampled = {"num_return_sequences": 3, "do_sample": True}
    found = []
    for store in ("ragged", "masked"):
        cache = lava_cache(model, store=store, max_new_tokens=NEW)
        feed(model, cache, [ids[:, : PROMPT - 3]])
        if expanded:
            cache.expand(3)
        found.append(generate(model, cache, ids, **sampled))
        assert cache.batch_size == 6
    assert_same(*found)
    assert len(found[0][0].unique(dim=0)) > 2
    above, stock = lava_cache(model, budget=ABOVE), DynamicCache(config=model.config)
    for cache in (above, stock):
        feed(model, cache, [ids[:, : PROMPT - 3]])
        cache.batch_repeat_interleave(3)
    assert_same(generate(model, above, ids, **sampled), generate(model, stock, ids, **sampled))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_questions_about_one_context(kind: str) -> None:
    model, context = lavakv.enable(zoo.tiny(kind, torch.float64)), zoo.prompt(PROMPT)
    cache = lava_cache(model, max_new_tokens=NEW + 6)
    feed(model, cache, [context])
    questions = zoo.prompt(6, batch=3, seed=4)
    alone = [generate(model, copy.deepcopy(cache), torch.cat([context, row[None]], dim=1)) for row in questions]
    cache.expand(3)
    together = generate(model, cache, torch.cat([context.expand(3, -1), questions], dim=1))
    assert_same(together, tuple(torch.cat(parts) for parts in zip(*alone, strict=True)))


def test_a_call_that_is_refused_later_gives_the_copies_back() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, [zoo.prompt(PROMPT)])
    held = cache.lengths()
    ids = torch.cat([zoo.prompt(PROMPT), zoo.prompt(2, seed=1)], dim=1)
    with pytest.raises(ValueError, match="num_return_sequences"):
        model.generate(ids, past_key_values=cache, num_return_sequences=3, do_sample=False, max_new_tokens=2)
    assert cache.lengths().equal(held)
    with refuses(lavakv.CacheMismatchError, "input_ids"):
        model.generate(ids.expand(2, -1), past_key_values=cache, num_beams=2, max_new_tokens=2)
    assert cache.lengths().equal(held)


def test_input_errors_before_anything_is_moved() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, split(zoo.prompt(PROMPT), [PROMPT]))
    with refuses(InputError, "input_ids"):
        model.generate(zoo.prompt(3), past_key_values=cache, num_beams=3, max_new_tokens=2)
    assert cache.batch_size == 1


def test_a_failure_inside_the_first_forward_of_beams_is_the_error_that_is_raised() -> None:
    model, prompt = lavakv.enable(zoo.tiny("llama")), zoo.prompt(60)
    cache = lava_cache(model)
    feed(model, cache, [prompt[:, :50]])
    handle = model.model.layers[0].register_forward_pre_hook(lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        model.generate(prompt, **cache_argument(model, cache), num_beams=2, max_new_tokens=3)
    handle.remove()
