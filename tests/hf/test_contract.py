"""A transformers that changed what lavakv relies on is named as such, before anything runs."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import transformers
from transformers import AttentionInterface, Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

import lavakv
from lavakv import UnsupportedError
from lavakv.hf import contract
from lavakv.hf.contract import CACHE_NAMES, cache_argument, cache_name
from lavakv.hf.layer import LavaLayer
from tests.hf import zoo
from tests.hf.helpers import feed, kept, lava_cache, split

CHUNKS = split(zoo.prompt(44), [40, 1, 3])
NAMED = f"transformers is {transformers.__version__}, and lavakv {lavakv.__version__} knows 5.17 to 5.24"


def _names(model: Any) -> list[str]:
    """The keywords by which this transformers takes a cache."""
    return list(CACHE_NAMES) if cache_name(model) == "cache" else ["past_key_values"]


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "falcon_h1", "gemma3"])
@torch.no_grad()
def test_every_keyword_that_this_transformers_takes_works(kind: str) -> None:
    model = lavakv.enable((zoo.tiny if kind in zoo.TEXT else zoo.tiny_vision)(kind))
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    results = []
    for name in _names(model):
        cache, generated = lava_cache(model), lava_cache(model)
        logits = [model(input_ids=ids, **{name: cache}).logits[:, -1] for ids in CHUNKS]
        results.append((torch.stack(logits), kept(cache), model.generate(CHUNKS[0], **{name: generated}, **options)))
    for logits, held, text in results:
        assert logits.equal(results[0][0])
        assert held == results[0][1]
        assert text.equal(results[0][2])


@torch.no_grad()
def test_nothing_of_ours_makes_transformers_warn() -> None:
    model = lavakv.enable(zoo.tiny("gemma3_text"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(CHUNKS[0], **cache_argument(model, cache := lava_cache(model)))
        more = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
        model.generate(torch.cat(CHUNKS, dim=1), **cache_argument(model, cache), **more)


def test_a_cache_under_a_third_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is that a LavaCache is among the arguments."""
    model = zoo.tiny("llama")
    name, original = cache_name(model), type(model.model).forward

    def renamed(self: Any, input_ids: Any = None, kv_store: Any = None, **kwargs: Any) -> Any:
        return original(self, input_ids, **{name: kv_store}, **kwargs)

    monkeypatch.setattr(type(model.model), "forward", renamed)
    monkeypatch.setattr(contract, "CACHE_NAMES", ("kv_store",))
    lavakv.enable(model.model)
    cache = lava_cache(model)
    with torch.no_grad():
        model.model(CHUNKS[0], kv_store=cache)
    assert cache.get_seq_length() == 40


def _renamed_forward(patch: pytest.MonkeyPatch, model: Any) -> None:
    def forward(self: Any, input_ids: Any = None, kv_store: Any = None) -> None:
        """A forward of next year."""

    patch.setattr(type(model.model), "forward", forward)


def _no_interface(patch: pytest.MonkeyPatch, model: Any) -> None:
    patch.delattr(AttentionInterface, "get_interface")


def _other_signature(patch: pytest.MonkeyPatch, model: Any) -> None:
    def get_interface(self: Any, name: str) -> None:
        """One that takes no default."""

    patch.setattr(AttentionInterface, "get_interface", get_interface)


def _own_functions(patch: pytest.MonkeyPatch, model: Any) -> None:
    patch.setattr(contract.ALL_ATTENTION_FUNCTIONS, "get_interface", lambda *_: print, raising=False)


def _no_mask_sizes(patch: pytest.MonkeyPatch, model: Any) -> None:
    patch.delattr(Cache, "get_mask_sizes")


def _new_abstract_method(patch: pytest.MonkeyPatch, model: Any) -> None:
    patch.setattr(LavaLayer, "__abstractmethods__", frozenset({"evict"}))


CHANGES = {
    "the cache's name": (_renamed_forward, "kv_store"),
    "no interface": (_no_interface, "get_interface"),
    "another signature": (_other_signature, "TypeError"),
    "functions from elsewhere": (_own_functions, "others"),
    "no mask sizes": (_no_mask_sizes, "get_mask_sizes"),
    "a method more": (_new_abstract_method, "evict"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_transformers_is_named(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, got = CHANGES[what]
    model = zoo.tiny("llama")
    with monkeypatch.context() as patch:
        change(patch, model)
        with pytest.raises(UnsupportedError) as caught:
            lavakv.enable(model)
    assert got in caught.value.got
    assert NAMED in caught.value.fix
    assert "enable" not in caught.value.fix
    assert not model._forward_pre_hooks
    assert not model.model._forward_pre_hooks
    assert feed(model, DynamicCache(config=model.config), CHUNKS).isfinite().all()


def test_attention_that_no_longer_comes_to_us_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer goes its own way: the first forward says so, and the cache is empty."""
    model = lavakv.enable(zoo.tiny("llama"))
    attention, cache = model.model.layers[1].self_attn, lava_cache(model)
    monkeypatch.setattr(attention, "forward", lambda hidden_states, **_: (hidden_states, None))
    with pytest.raises(UnsupportedError, match="layer 2 where layer 1 was due") as caught:
        feed(model, cache, CHUNKS[:1])
    assert NAMED in caught.value.fix
    assert cache.get_seq_length() == 0


def test_the_layer_interface_is_the_one_we_know() -> None:
    """A method that becomes abstract in a newer transformers shows here first."""
    assert CacheLayerMixin.__abstractmethods__ <= set(dir(LavaLayer))
