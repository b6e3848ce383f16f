"""Tokens that are drafted and taken back again, as assisted and prompt-lookup decoding do."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import lavakv
from lavakv import UnsupportedError
from lavakv.hf.contract import cache_argument
from tests.hf import zoo
from tests.hf.generation import (
    ABOVE,
    KINDS,
    NEW,
    PROMPT,
    SPECULATION,
    assert_same,
    forwards,
    generate,
    speculative,
    text,
)
from tests.hf.helpers import BUDGET, assert_like_new, feed, kept, lava_cache, refuses, split


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SPECULATION)
def test_drafted_tokens_change_no_answer(kind: str, name: str) -> None:
    model, options = lavakv.enable(zoo.tiny(kind, torch.float64)), speculative(name, kind)
    stock = DynamicCache(config=model.config)
    try:
        expected = generate(model, stock, text(), **options)
    except (TypeError, IndexError):
        pytest.skip("this transformers cannot leave this model early, with any cache")
    caches = {name: lava_cache(model, store=name) for name in ("ragged", "masked")}
    plain = generate(model, lava_cache(model), text())
    found = {name: generate(model, cache, text(), **options) for name, cache in caches.items()}
    assert_same(found["ragged"], plain)
    assert_same(found["masked"], plain)
    assert kept(caches["ragged"]) == kept(caches["masked"])
    assert caches["ragged"].get_seq_length() == PROMPT + NEW - 1
    assert not caches["ragged"].is_recording
    assert_same(generate(model, lava_cache(model, budget=ABOVE), text(), **options), expected)


@pytest.mark.parametrize(("kind", "name"), [("gemma3_text", SPECULATION[0]), ("llama", SPECULATION[1])])
def test_drafts_save_forwards(kind: str, name: str) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    count = forwards(model)
    generate(model, lava_cache(model), text(), **speculative(name, kind))
    assert count[0] < NEW


@pytest.mark.parametrize("name", SPECULATION[:2])
def test_sampled_drafts(name: str) -> None:
    model, options = lavakv.enable(zoo.tiny("qwen2", torch.float64)), speculative(name, "qwen2")
    ragged, masked = lava_cache(model), lava_cache(model, store="masked")
    options |= {"do_sample": True, "temperature": 0.7}
    assert_same(generate(model, ragged, text(), **options), generate(model, masked, text(), **options))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SPECULATION[:2])
@pytest.mark.parametrize("store", ["ragged", "masked"])
def test_drafts_behind_a_filled_cache(kind: str, name: str, store: str) -> None:
    """The context is compressed; the question and the answer come with drafts."""
    model, options = lavakv.enable(zoo.tiny(kind, torch.float64)), speculative(name, kind)
    cache = lava_cache(model, store=store, max_new_tokens=NEW)
    feed(model, cache, [text()[:, : PROMPT - 6]])
    plain = generate(model, copy.deepcopy(cache), text())
    assert_same(generate(model, cache, text(), **options), plain)
    further = torch.cat([plain[0], zoo.prompt(2, seed=8)], dim=1)
    twin = copy.deepcopy(cache)
    assert_same(generate(model, cache, further, **options), generate(model, twin, further))


def test_drafts_need_the_whole_text() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, [zoo.prompt(PROMPT)])
    with refuses(UnsupportedError, "prompt_lookup_num_tokens", "2 new tokens"):
        model.generate(
            zoo.prompt(2), past_key_values=cache, attention_mask=torch.ones(1, PROMPT + 2), prompt_lookup_num_tokens=2
        )
    fresh = lava_cache(model)
    with refuses(UnsupportedError, "prompt_lookup_num_tokens", "inputs_embeds"):
        embeddings = model.get_input_embeddings()(zoo.prompt(PROMPT))
        model.generate(inputs_embeds=embeddings, past_key_values=fresh, prompt_lookup_num_tokens=2)
    assert_like_new(model, fresh, lava_cache(model))


@pytest.mark.parametrize("kind", ["falcon_h1", "qwen3_next", "zamba2"])
@pytest.mark.parametrize("name", ["prompt_lookup_num_tokens", "assistant_early_exit", "assistant_model"])
def test_drafts_cannot_be_taken_out_of_a_recurrent_state(kind: str, name: str) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    cache = lava_cache(model)
    with refuses(UnsupportedError, name, "recurrent state"):
        model.generate(text(), past_key_values=cache, max_new_tokens=2, **speculative(name, kind))
    assert_like_new(model, cache, lava_cache(model))


def test_a_model_that_is_copied_drafts_as_before() -> None:
    model = copy.deepcopy(lavakv.enable(zoo.tiny("llama", torch.float64)))
    plain = generate(model, lava_cache(model), text())
    assert_same(generate(model, lava_cache(model), text(), prompt_lookup_num_tokens=3), plain)
    lavakv.disable(model)
    own = {"generate", "_get_candidate_generator", "prepare_inputs_for_generation"} & model.__dict__.keys()
    assert not own


@pytest.mark.parametrize("name", SPECULATION[:2])
@pytest.mark.parametrize("settings", [{"evict": "turns"}, {"max_tokens_per_head": 40}], ids=["turns", "bound"])
def test_drafts_judge_no_eviction(name: str, settings: dict[str, object]) -> None:
    """Turns are evicted when the question is in, and a bound is looked at once drafts are taken back."""
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    caches = [
        lava_cache(model, **settings),
        lava_cache(model, store="masked", **settings),
        lava_cache(model, **settings),
    ]
    told = [text(), text(), text()]
    for turn in range(3):
        for index, cache in enumerate(caches):
            options = speculative(name, "llama") if index < 2 else {}
            answer = generate(model, cache, told[index], **options)
            told[index] = torch.cat([answer[0], zoo.prompt(7, seed=turn)], dim=1)
        assert told[0].equal(told[1])
        assert kept(caches[0]) == kept(caches[1])
    if "evict" in settings:  # the same rounds at the same places as without drafts
        assert told[0].equal(told[2])
        assert kept(caches[0]) == kept(caches[2])
    else:
        assert int(caches[0].lengths().sum()) < 40 * caches[0].lengths().numel()


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_drafting_that_is_interrupted_does_not_end_eviction(kind: str, error: type[BaseException]) -> None:
    """The drafts that were read stay, and no later token is taken for one."""
    left = 6

    def interrupt(_ids: Tensor, scores: Tensor) -> Tensor:
        nonlocal left
        left -= 1
        if not left:
            raise error
        return scores

    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    cache, prompt = lava_cache(model, max_tokens_per_head=BUDGET + 8), zoo.prompt(30).repeat(1, 2)
    with pytest.raises(error):
        model.generate(prompt, **cache_argument(model, cache), logits_processor=[interrupt], prompt_lookup_num_tokens=3)
    assert not cache.is_recording
    feed(model, cache, [zoo.prompt(1, seed=seed) for seed in range(20)])
    assert float(cache.lengths().double().mean()) <= BUDGET + 8


def test_a_cache_saved_among_drafts_goes_on_taking_them_for_drafts(tmp_path: Path) -> None:
    model = lavakv.enable(zoo.tiny("gemma3_text", torch.float64))
    cache = lava_cache(model, evict="turns")
    feed(model, cache, [zoo.prompt(50)])
    cache.activate_past_recording()
    for drafts in split(zoo.prompt(8, seed=2), [5, 3]):
        feed(model, cache, [drafts])
        cache.crop(0)  # as after every round of drafts; older sliding layers need it
    cache.save(tmp_path / "context")
    loaded = lavakv.LavaCache.load(tmp_path / "context", model)
    for drafts in (zoo.prompt(4, seed=5), zoo.prompt(3, seed=6)):
        cache.crop(0)
        loaded.crop(0)
        assert feed(model, cache, [drafts]).equal(feed(model, loaded, [drafts]))
        assert kept(cache) == kept(loaded)
    cache.crop(-3)
    loaded.crop(-3)


def test_a_call_that_stops_before_its_first_forward_marks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    cache = lava_cache(model)
    generate(model, cache, text())
    marked: list[bool] = []

    def stop(*_: object, **__: object) -> None:
        marked.append(cache.whole_text_follows)
        raise ZeroDivisionError

    longer = torch.cat([text(), zoo.prompt(NEW + 4, seed=2)], dim=1)
    monkeypatch.setattr(cache, "check_continues", lambda *_: None)
    monkeypatch.setattr("lavakv.hf.speculation._Inputs.__call__", stop)
    with pytest.raises(ZeroDivisionError):
        generate(model, cache, longer, **speculative(SPECULATION[0], "llama"))
    assert marked[-1]
    assert not cache.whole_text_follows
