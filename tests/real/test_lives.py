"""Turns, bounds, chunks, beams, crops and expanded contexts of the real model, ragged against masked, in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import lavakv
from lavakv.hf.contract import cache_argument
from tests.hf.helpers import feed, kept, split, worst
from tests.real import texts

BUDGET, PROMPT = 96, 480
NEGLIGIBLE = 1e-9  # of logits of about 30 in float64: nothing but rounding may differ, and none moves a survivor


@pytest.fixture(scope="module")
def exact(model: Any) -> Any:
    return lavakv.enable(copy.deepcopy(model).double())


@pytest.fixture(scope="module")
def ids(tokenizer: Any) -> Tensor:
    found: Tensor = tokenizer(texts.docstrings(), return_tensors="pt").input_ids[:, : PROMPT + 100]
    return found


def _caches(model: Any, **settings: Any) -> list[lavakv.LavaCache]:
    return [lavakv.LavaCache(model.config, BUDGET, store=store, **settings) for store in ("ragged", "masked")]


@pytest.mark.parametrize(
    "settings",
    [
        {"evict": "turns"},
        {"evict": "turns", "policy": "reach", "protect": 20},
        {"max_tokens_per_head": 110},
        {"policy": "residual-max", "evict": "turns", "max_tokens_per_head": 110},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_turns_and_bounds(exact: Any, ids: Tensor, settings: dict[str, Any]) -> None:
    caches = _caches(exact, **settings)
    for chunk in split(ids[:, : PROMPT + 90], [PROMPT, 40, *[1] * 20, 30]):
        assert worst(*(feed(exact, cache, [chunk]) for cache in caches)) < NEGLIGIBLE
        assert kept(caches[0]) == kept(caches[1])
    assert float(caches[0].lengths().double().mean()) == BUDGET


def test_a_prompt_in_chunks_keeps_what_one_forward_keeps(exact: Any, ids: Tensor) -> None:
    prompt, more = ids[:, :PROMPT], ids[:, PROMPT : PROMPT + 8]
    one, chunked = lavakv.LavaCache(exact.config, BUDGET), lavakv.LavaCache(exact.config, BUDGET)
    feed(exact, one, [prompt])
    with chunked.prompt_in_chunks():
        feed(exact, chunked, split(prompt, [200, 200, 80]))
    assert kept(chunked) == kept(one)
    assert worst(feed(exact, chunked, [more]), feed(exact, one, [more])) < NEGLIGIBLE


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"prompt_lookup_num_tokens": 3}], ids=["beams", "lookup"])
def test_searches_and_drafts(exact: Any, ids: Tensor, options: dict[str, int]) -> None:
    texts = []
    for cache in _caches(exact):
        given = {"max_new_tokens": 12, "do_sample": False, **options}
        texts.append(exact.generate(ids[:, :PROMPT], **cache_argument(exact, cache), **given))
    assert texts[0].equal(texts[1])


def test_crops_and_an_expanded_context(exact: Any, ids: Tensor) -> None:
    """Questions of a batch on one context answer as each does alone, and a question is taken back without a trace."""
    context, questions = ids[:, :PROMPT], torch.cat([ids[:, -20:-10], ids[:, -10:]])
    for cache in _caches(exact):
        feed(exact, cache, [context])
        alone = [feed(exact, copy.deepcopy(cache), [question[None]])[:, -1:] for question in questions]
        before = kept(cache)
        feed(exact, cache, [questions[:1]])
        cache.crop(-10)
        assert kept(cache) == before
        cache.expand(2)
        together = feed(exact, cache, [questions])
        assert worst(together, torch.cat(alone)) < NEGLIGIBLE
