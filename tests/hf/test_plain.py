"""Where nothing is evicted, an enabled model answers as the plain one does."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

import lavakv
from tests.hf import zoo
from tests.hf.helpers import feed, lava_cache, split, typical

STEPS = [64, 1, 1, 1, 1, 1, 3]
ATTENTIONS = ["sdpa", "eager"]
WITHOUT_SDPA = {"gemma2", "gpt_oss"}
CASES = [(k, a) for k in zoo.TEXT for a in ATTENTIONS if a == "eager" or k not in WITHOUT_SDPA]


@pytest.mark.parametrize(("kind", "attention"), CASES)
def test_other_caches_see_no_difference(kind: str, attention: str) -> None:
    model, ids = zoo.tiny(kind, attention=attention), zoo.prompt(40)
    chunks = split(zoo.prompt(44), [40, 1, 3])
    before = feed(model, DynamicCache(config=model.config), chunks)
    without_cache = model(ids, use_cache=False).logits
    lavakv.enable(model)
    assert feed(model, DynamicCache(config=model.config), chunks).equal(before)
    assert model(ids, use_cache=False).logits.equal(without_cache)
    lavakv.disable(model)
    assert feed(model, DynamicCache(config=model.config), chunks).equal(before)


@pytest.mark.parametrize(("kind", "attention"), CASES)
def test_prompt_within_budget_gives_the_plain_logits(kind: str, attention: str) -> None:
    """The error against a float64 run of the plain model is at most twice the plain model's own (see FACTOR there)."""
    model, chunks = zoo.tiny(kind, attention=attention), split(zoo.prompt(sum(STEPS)), STEPS)
    plain = feed(model, DynamicCache(config=model.config), chunks)
    with lavakv.enabled(model):
        got = feed(model, lava_cache(model, budget=64), chunks)
    model.to(torch.float64)
    exact = feed(model, DynamicCache(config=model.config), chunks)
    ulp = torch.finfo(torch.float32).eps * float(exact.square().mean().sqrt())
    assert typical(got, exact) <= 2 * typical(plain, exact) + ulp
    assert got[:, 0].equal(plain[:, 0])


@pytest.mark.parametrize("store", ["ragged", "masked"])
@pytest.mark.parametrize("kind", zoo.TEXT)
def test_prompt_within_budget_gives_the_plain_text(kind: str, store: str) -> None:
    model, ids = zoo.tiny(kind, torch.float64), zoo.prompt(40)
    plain = model.generate(ids, past_key_values=DynamicCache(config=model.config), max_new_tokens=12, do_sample=False)
    lavakv.enable(model)
    cache = lava_cache(model, budget=40, store=store)
    got = model.generate(ids, past_key_values=cache, max_new_tokens=12, do_sample=False)
    assert got.equal(plain)
    assert cache.get_seq_length() == got.shape[1] - 1
    assert set(cache.lengths()[cache.lengths() > 0].tolist()) == {got.shape[1] - 1}
    assert cache.budgets().estimated_loss.count_nonzero() == 0


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt_oss"])
def test_one_entry_short_is_already_another_answer(kind: str) -> None:
    """A budget of one less evicts, so equality at the full budget means something."""
    model = lavakv.enable(zoo.tiny(kind))
    chunks = split(zoo.prompt(41), [40, 1])
    full, short = (feed(model, lava_cache(model, budget=budget), chunks)[:, 1] for budget in (40, 39))
    assert not full.equal(short)
