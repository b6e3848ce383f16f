"""A saved context goes on, bit for bit, as a copy of the cache that was saved."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import lavakv
from lavakv.eviction.saved_header import read_header
from lavakv.eviction.session import SessionSnapshot
from tests.hf import zoo
from tests.hf.helpers import BY_POSITION, feed, kept, lava_cache, refuses, split
from tests.hf.test_turns import _positions

PROMPT = zoo.prompt(50, batch=2)
ANSWER = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "context.safetensors"


def assert_same(one: lavakv.LavaCache, other: lavakv.LavaCache) -> None:
    """Two caches say the same of themselves."""
    assert one.lengths().equal(other.lengths())
    assert kept(one) == kept(other)
    assert one.get_seq_length() == other.get_seq_length()
    assert repr(one) == repr(other)
    for mine, its in zip(one.budgets(), other.budgets(), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("store", ["ragged", "masked"])
@pytest.mark.parametrize("kind", sorted(zoo.TEXT))
def test_it_goes_on_as_a_copy_does(kind: str, store: str, file: Path) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    cache = lava_cache(model, store=store)
    feed(model, cache, [PROMPT, *split(zoo.prompt(3, batch=2, seed=4), [1, 2])])
    cache.save(file)
    loaded, twin = lavakv.LavaCache.load(file, model), copy.deepcopy(cache)
    assert_same(loaded, twin)
    more = split(zoo.prompt(9, batch=2, seed=3), [3, 1, 1, 2, 1, 1])
    assert feed(model, loaded, more).equal(feed(model, twin, more))
    assert_same(loaded, twin)


@pytest.mark.parametrize("store", ["ragged", "masked"])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt_oss"])
def test_a_padded_batch_with_a_padded_turn_goes_on(kind: str, store: str, file: Path) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    ids, question = PROMPT.clone(), zoo.prompt(7, batch=2, seed=8)
    ids[1, :19], question[0, :4] = 0, 0
    mask, more = (ids != 0).long(), (question != 0).long()
    cache = lava_cache(model, store=store)
    with torch.no_grad():
        model(ids, attention_mask=mask, position_ids=_positions(mask), past_key_values=cache)
    cache.save(file)
    full, logits = torch.cat([mask, more], dim=1), []
    loaded, twin = lavakv.LavaCache.load(file, model), copy.deepcopy(cache)
    for each in (loaded, twin):
        with torch.no_grad():
            output = model(question, attention_mask=full, position_ids=_positions(full)[:, 50:], past_key_values=each)
        logits.append(output.logits)
    assert logits[0].equal(logits[1])
    assert_same(loaded, twin)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_generate_goes_on_in_a_padded_batch(kind: str, file: Path) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    ids = PROMPT.clone()
    ids[0, :13] = 0
    cache = lava_cache(model, keep=0.4)
    first = model.generate(ids, attention_mask=(ids != 0).long(), past_key_values=cache, **ANSWER)
    cache.save(file)
    text = torch.cat([first, zoo.prompt(5, batch=2, seed=9)], dim=1)
    mask = torch.ones_like(text)
    mask[0, :13] = 0
    loaded, twin = lavakv.LavaCache.load(file, model), copy.deepcopy(cache)
    answers = [model.generate(text, attention_mask=mask, past_key_values=each, **ANSWER) for each in (loaded, twin)]
    assert answers[0].equal(answers[1])
    assert_same(loaded, twin)


def test_generate_refuses_another_text_after_loading(file: Path) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, [PROMPT])
    cache.save(file)
    other = torch.cat([PROMPT, PROMPT[:, :3]], dim=1)
    other[1, 7] += 1
    with pytest.raises(lavakv.CacheMismatchError, match="as token 7 of sequence 1"):
        model.generate(other, past_key_values=lavakv.LavaCache.load(file, model), **ANSWER)


def test_the_bytes_are_those_of_what_is_held(file: Path) -> None:
    model = lavakv.enable(zoo.tiny("gemma3_text"))
    cache = lava_cache(model)
    feed(model, cache, [PROMPT])
    cache.save(file)
    loaded = lavakv.LavaCache.load(file, model)
    assert loaded.nbytes == cache.nbytes
    assert loaded.bytes_by_sequence() == cache.bytes_by_sequence()
    feed(model, cache, [zoo.prompt(1, batch=2)])  # the tail grows, with spare columns
    cache.save(file)
    assert lavakv.LavaCache.load(file, model).nbytes < cache.nbytes


def test_reserved_capacity_is_there_after_loading(file: Path) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model, max_new_tokens=40)
    feed(model, cache, [PROMPT])
    cache.save(file)
    loaded = lavakv.LavaCache.load(file, model)
    assert loaded.nbytes == cache.nbytes
    places = [layer.store.tail.buffers[0].data_ptr() for layer in loaded.layers]
    feed(model, loaded, split(zoo.prompt(40, batch=2), [40]))
    assert [layer.store.tail.buffers[0].data_ptr() for layer in loaded.layers] == places
    loaded.reserve(100)
    assert loaded.layers[0].store.tail.buffers[0].shape[2] == 8 + 40 + 100


def test_what_was_announced_is_remembered(file: Path, recwarn: pytest.WarningsRecorder) -> None:
    """The warning for text that nobody announced comes after loading as it would have come without."""
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model, max_new_tokens=30)
    feed(model, cache, [PROMPT])
    cache.save(file)
    feed(model, lavakv.LavaCache.load(file, model), [zoo.prompt(30, batch=2)])
    assert [str(each.message) for each in recwarn if "lavakv" in str(each.message)] == []
    with pytest.warns(UserWarning, match="for a budget of 24"):
        feed(model, lavakv.LavaCache.load(file, model), [zoo.prompt(31, batch=2)])


def test_a_model_that_is_not_enabled_and_a_config_will_do(file: Path) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, [PROMPT])
    cache.save(file)
    other = zoo.tiny("llama")  # the same weights
    loaded = [lavakv.LavaCache.load(file, each) for each in (other, model.config)]
    lavakv.enable(other)
    more = split(zoo.prompt(3, batch=2, seed=3), [2, 1])
    expected = feed(model, cache, more)
    assert all(feed(other, each, more).equal(expected) for each in loaded)


def test_only_the_model_that_it_was_loaded_for_may_go_on(file: Path) -> None:
    model, other = lavakv.enable(zoo.tiny("llama")), lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, [PROMPT])
    cache.save(file)
    with pytest.raises(lavakv.CacheMismatchError):
        feed(other, lavakv.LavaCache.load(file, model), [zoo.prompt(1, batch=2)])


def test_in_bfloat16(file: Path) -> None:
    model = lavakv.enable(zoo.tiny("qwen2", torch.bfloat16))
    cache = lava_cache(model)
    feed(model, cache, [PROMPT])
    cache.save(file)
    loaded = lavakv.LavaCache.load(file, model)
    assert loaded.layers[1].store.past.keys.dtype == torch.bfloat16
    more = split(zoo.prompt(4, batch=2, seed=3), [3, 1])
    assert feed(model, loaded, more).equal(feed(model, cache, more))


def test_a_policy_without_a_name_is_given_again(file: Path) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model, policy=BY_POSITION)
    feed(model, cache, [PROMPT])
    cache.save(file)
    with pytest.raises(lavakv.PolicyError, match="the Policy called 'by-position'"):
        lavakv.LavaCache.load(file, model)
    with pytest.raises(lavakv.PolicyError, match="got 'lava'"):
        lavakv.LavaCache.load(file, model, policy="lava")
    assert_same(lavakv.LavaCache.load(file, model, policy=BY_POSITION), cache)


def test_a_policy_that_borrows_a_name_is_not_taken_for_the_registered_one(file: Path) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model, policy=lavakv.Policy("snapkv", "not the real one", BY_POSITION.score))
    feed(model, cache, [PROMPT])
    cache.save(file)
    with pytest.raises(lavakv.PolicyError, match="policy: expected the Policy called 'snapkv'"):
        lavakv.LavaCache.load(file, model)


def test_it_is_a_safetensors_file_with_a_header_of_json(file: Path) -> None:
    model = lavakv.enable(zoo.tiny("gemma3_text"))
    cache = lava_cache(model, policy="snapkv", keep=0.5)
    feed(model, cache, [PROMPT])
    cache.save(file)
    tensors = load_file(file)
    session = cache._state.session.snapshot()
    assert tensors["columns.tokens"].equal(PROMPT)
    for row, index in enumerate(cache.layer_indices):
        assert tensors[f"layers.{index}.past_keys"].equal(session.stores[row].past_keys)
    with safe_open(file, "pt") as opened:
        assert opened.metadata().keys() == {"lavakv"}
    header = read_header("path", file)
    assert (header.policy, header.store, header.batch, header.columns) == ("snapkv", "ragged", 2, 50)
    assert header.budget == {"budget": None, "keep": 0.5, "max_bytes": None, "max_loss": None, "window": 8}
    assert header.versions.keys() == {"lavakv", "transformers", "torch"}
    assert header.model["geometry"]["model_type"] == "gemma3_text"


def test_a_file_is_replaced_and_saved_again_unchanged(file: Path) -> None:
    model = lavakv.enable(zoo.tiny("gemma3_text"))
    cache = lava_cache(model)
    feed(model, cache, [PROMPT])
    file.write_bytes(b"something else")
    cache.save(str(file))
    written = file.read_bytes()
    lavakv.LavaCache.load(str(file), model).save(file)
    assert file.read_bytes() == written
    assert os.listdir(file.parent) == [file.name]


def test_a_cache_out_of_a_pickle_is_saved_without_the_weights_fingerprint(file: Path) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, [PROMPT])
    unpickled = pickle.loads(pickle.dumps(cache))
    unpickled.save(file)
    assert read_header("path", file).model["weights"] is None
    more = split(zoo.prompt(2, batch=2), [1, 1])
    assert feed(model, lavakv.LavaCache.load(file, model), more).equal(feed(model, cache, more))
    with pytest.raises(lavakv.CacheMismatchError, match="in float32"):
        lavakv.LavaCache.load(file, zoo.tiny("llama", torch.float64))


def test_memory_of_a_loaded_cache_is_its_own(file: Path) -> None:
    model = lavakv.enable(zoo.tiny("gemma3_text"))
    cache = lava_cache(model)
    feed(model, cache, [PROMPT])
    cache.save(file)
    loaded = lavakv.LavaCache.load(file, model)
    file.write_bytes(bytes(file.stat().st_size))
    more = split(zoo.prompt(2, batch=2), [1, 1])
    assert feed(model, loaded, more).equal(feed(model, cache, more))


def test_inference_mode_leaves_no_trace(file: Path) -> None:
    model = lavakv.enable(zoo.tiny("qwen3_next"))
    with torch.inference_mode():
        cache = lava_cache(model)
        feed(model, cache, [PROMPT])
        cache.save(file)
        loaded = lavakv.LavaCache.load(file, model)
    more = split(zoo.prompt(2, batch=2), [1, 1])
    feed(model, loaded, more)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt_oss"])
@pytest.mark.parametrize("store", ["ragged", "masked"])
def test_rounds_go_on_where_they_were(kind: str, store: str, tmp_path: Path) -> None:
    """A turn shorter than the window is judged by the queries that were saved as well."""
    model = lavakv.enable(zoo.tiny(kind))
    settings = {"policy": "residual-max", "evict": "turns", "max_tokens_per_head": 40, "protect": slice(2, 7)}
    cache = lava_cache(model, store=store, **settings)
    turns = split(zoo.prompt(100), [50, 1, 9, 1, 3, 1, 35])
    feed(model, cache, turns[:2])
    cache.save(tmp_path / "context.safetensors")
    loaded, twin = lavakv.LavaCache.load(tmp_path / "context.safetensors", model), copy.deepcopy(cache)
    for turn in [*turns[2:], *split(zoo.prompt(30, seed=3), [1] * 30)]:
        assert feed(model, loaded, [turn]).equal(feed(model, twin, [turn]))
        assert kept(loaded) == kept(twin)
    assert int(loaded.lengths().sum()) < 40 * loaded.lengths().numel()


@pytest.mark.parametrize("kv_bits", [8, 4])
@pytest.mark.parametrize("store", ["ragged", "masked"])
def test_fewer_bits_are_saved_as_they_are_held(kv_bits: int, store: str, tmp_path: Path) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache, path = lava_cache(model, store=store, kv_bits=kv_bits, evict="turns"), tmp_path / "context.safetensors"
    turns = split(zoo.prompt(100), [50, 1, 20, 1, 28])
    feed(model, cache, turns[:2])
    cache.save(path)
    loaded, twin = lavakv.LavaCache.load(path, model), copy.deepcopy(cache)
    assert repr(loaded) == repr(cache)
    for turn in turns[2:]:
        assert feed(model, loaded, [turn]).equal(feed(model, twin, [turn]))
        assert kept(loaded) == kept(twin)


def test_a_budget_that_a_tolerance_led_to_holds_on(tmp_path: Path) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache, path = (
        lavakv.LavaCache(model.config, window=8, max_loss=0.3, evict="turns"),
        tmp_path / "context.safetensors",
    )
    turns = split(zoo.prompt(100), [50, 1, 20, 1, 28])
    feed(model, cache, turns[:2])
    found = cache.budgets().tokens_per_head
    cache.save(path)
    loaded = lavakv.LavaCache.load(path, model)
    feed(model, loaded, turns[2:])
    assert loaded.budgets().tokens_per_head.equal(found)
    assert int(loaded.lengths().sum()) == int(found * loaded.lengths().numel())


def test_a_prompt_in_chunks_is_not_saved_before_its_end(tmp_path: Path) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    with cache.prompt_in_chunks():
        feed(model, cache, split(zoo.prompt(60), [40, 20]))
        with refuses(lavakv.CacheStateError, "cache", "chunks of one"):
            cache.save(tmp_path / "context.safetensors")
        with refuses(lavakv.CacheStateError, "cache", "chunks of one"):
            cache.compress()
    assert not list(tmp_path.iterdir())
    cache.save(tmp_path / "context.safetensors")


def test_all_that_a_cache_remembers_is_saved_or_known_to_be_needless() -> None:
    """A new attribute needs a decision: save it (and test that), or add it here."""
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, [PROMPT])
    saved = {"_spec", "_policy", "_store_class", "_reserved", "_announced", "_watch", "_state", "layers"}
    saved |= {
        "_kv_bits",
        "_evict",
        "max_tokens_per_head",
        "_protect",
        "_budgets_in_force",
        "_held",
        "_held_at",
        "_itemsize",
    }
    from_the_model = {"_config", "_geometry", "layer_class_to_replicate", "offloading"}
    of_the_machine = {"graph", "decode_graph"}
    assert vars(cache).keys() == saved | from_the_model | of_the_machine | {
        "_num_new", "_prompt_columns", "_has_recorded",
    }  # fmt: skip
    of_a_forward = {"step", "noted_ids", "held"}
    from_the_policy_or_the_next_forward = {"needs_norms", "projections", "_dtype"}
    known = {"_geometry", "session", "_model", "kv_dtype"} | of_a_forward | from_the_policy_or_the_next_forward
    assert vars(cache._state).keys() == known
    assert vars(cache._state.session).keys() == {
        "stores", "_num_heads", "phase", "columns", "budgets", "num_taken", "_round", "log", "last_round",
        "tokens_per_head",
    }  # fmt: skip
    columns = ("real", "tokens", "budgets", "stores", "brought_back")
    assert SessionSnapshot._fields == (*columns, "queries", "norms")
