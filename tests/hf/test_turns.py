"""Several turns on one cache: full ids through `generate`, several new tokens at once, one by one."""

from __future__ import annotations

import pytest
import torch

import lavakv
from tests.hf import zoo
from tests.hf.helpers import BUDGET, feed, kept, lava_cache, split, typical

PROMPT = 60
KINDS = ["llama", "gemma2", "gemma3_text", "gpt_oss", "gpt2", "qwen3", "phi3"]


@pytest.mark.parametrize("kind", KINDS)
def test_second_turn_with_full_ids_equals_plain_forwards(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    cache, reference = lava_cache(model), lava_cache(model, store="masked")
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    first = model.generate(zoo.prompt(PROMPT), past_key_values=cache, **options)
    question = torch.cat([first, zoo.prompt(5, seed=9)], dim=1)
    second = model.generate(question, past_key_values=cache, **options)
    assert second[:, : question.shape[1]].equal(question)

    chunks = split(second[:, :-1], [PROMPT, 1, 1, 1, 1, 1, 6, 1, 1, 1, 1, 1])
    logits = feed(model, reference, chunks)
    assert logits[:, :6].argmax(-1).equal(first[:, PROMPT:])
    assert logits[:, -6:].argmax(-1).equal(second[:, -6:])
    assert cache.get_seq_length() == reference.get_seq_length() == second.shape[1] - 1
    assert kept(cache) == kept(reference)


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_survivors_stay_and_new_tokens_are_all_kept(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    cache = lava_cache(model)
    chunks = split(zoo.prompt(PROMPT + 50), [PROMPT, 1, 40, 9])
    feed(model, cache, chunks[:1])
    before = kept(cache)
    cache_and_more = lava_cache(model)
    feed(model, cache_and_more, chunks)
    assert kept(cache_and_more) == [held + list(range(PROMPT, PROMPT + 50)) for held in before]
    lengths = cache_and_more.lengths()
    assert int(lengths.sum()) == (BUDGET + 50) * lengths.numel()


@pytest.mark.parametrize("store", ["ragged", "masked"])
@pytest.mark.parametrize("kind", KINDS)
def test_several_tokens_at_once_equal_one_by_one(kind: str, store: str) -> None:
    """In float32 against float64, where both ways must show rounding errors of one size (twice at most)."""
    model, ids = lavakv.enable(zoo.tiny(kind)), zoo.prompt(PROMPT + 12)
    ways = [PROMPT, 12], [PROMPT, 5, 1, 6], [PROMPT, *[1] * 12]
    got = [feed(model, lava_cache(model, store=store), split(ids, way)) for way in ways]
    model.to(torch.float64)
    exact = [feed(model, lava_cache(model, store=store), split(ids, way)) for way in ways]
    ulp = torch.finfo(torch.float32).eps * float(exact[0].square().mean().sqrt())
    one_by_one = typical(got[2], exact[2])
    for at_once, truth in zip(got[:2], exact[:2], strict=True):
        assert typical(at_once, truth) <= 2 * one_by_one + ulp
        assert typical(truth, exact[2]) <= 2 * one_by_one + ulp


def test_second_turn_of_a_padded_batch() -> None:
    """New questions are padded too, so holes stand between the turns; each row equals itself alone."""
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    rows, questions = [zoo.prompt(n, seed=n) for n in (50, 31)], [zoo.prompt(n, seed=n) for n in (3, 7)]
    pad = [torch.zeros(1, 50 - 31, dtype=torch.long), torch.zeros(1, 7 - 3, dtype=torch.long)]
    first = torch.cat([rows[0], torch.cat([pad[0], rows[1]], dim=1)])
    then = torch.cat([torch.cat([pad[1], questions[0]], dim=1), questions[1]])
    mask, more = (first != 0).long(), (then != 0).long()
    cache = lava_cache(model)
    with torch.no_grad():
        model(first, attention_mask=mask, position_ids=_positions(mask), past_key_values=cache)
        full = torch.cat([mask, more], dim=1)
        positions = _positions(full)[:, 50:]
        logits = model(then, attention_mask=full, position_ids=positions, past_key_values=cache).logits
    for index in range(2):
        alone = lava_cache(model)
        expected = feed(model, alone, [rows[index], questions[index]])[:, -1]
        assert logits[index, -1].argmax().equal(expected.argmax())
        assert cache.lengths()[:, index].equal(alone.lengths()[:, 0])
        assert cache.kept_positions(2, index, 1).equal(alone.kept_positions(2, 0, 1))


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)
