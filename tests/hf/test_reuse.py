"""A cache is continued by what it holds, or refused before anything runs; it never answers from another text."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import lavakv
from lavakv import CacheMismatchError, InputError
from lavakv.hf.continuation import tokens_of
from tests.hf import zoo
from tests.hf.helpers import assert_same_contents, contents, feed, lava_cache, refuses

PROMPT = zoo.prompt(40, batch=2)
OPTIONS = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}


def _turn(held: Tensor, count: int = 6) -> Tensor:
    return torch.cat([held, zoo.prompt(count, batch=held.shape[0], seed=5)], dim=1)


@pytest.fixture(params=["llama", "gemma3_text", "falcon_h1"])
def model(request: pytest.FixtureRequest):
    return lavakv.enable(zoo.tiny(request.param))


@pytest.mark.parametrize("column", [0, 17, 39, 42])
def test_another_text_is_refused_with_the_token_that_differs(model, column: int) -> None:
    cache = lava_cache(model)
    told = model.generate(PROMPT, past_key_values=cache, **OPTIONS)
    other = _turn(told)
    other[1, column] = 94
    held = cache.nbytes, cache.get_seq_length(), cache.lengths()
    with refuses(CacheMismatchError, "input_ids", "id 94"):
        model.generate(other, past_key_values=cache, **OPTIONS)
    with pytest.raises(CacheMismatchError, match=f"as token {column} of sequence 1"):
        model.generate(other, past_key_values=cache, **OPTIONS)
    assert (cache.nbytes, cache.get_seq_length()) == held[:2]
    assert cache.lengths().equal(held[2])
    assert model.generate(_turn(told), past_key_values=cache, **OPTIONS).shape[1] == told.shape[1] + 10


def test_the_same_text_with_more_behind_it_goes_on(model) -> None:
    cache, stock = lava_cache(model, budget=1000), DynamicCache(config=model.config)
    for held in (cache, stock):
        told = model.generate(PROMPT, past_key_values=held, **OPTIONS)
        more = model.generate(_turn(told), past_key_values=held, **OPTIONS)
    again = model.generate(_turn(model.generate(PROMPT, **OPTIONS)), **OPTIONS)
    assert more.equal(again)


def test_positions_are_counted_without_padding(model) -> None:
    cache, mask = lava_cache(model), torch.ones_like(PROMPT)
    mask[0, :9] = 0
    told = model.generate(PROMPT, attention_mask=mask, past_key_values=cache, pad_token_id=0, **OPTIONS)
    other, whole = _turn(told), torch.ones(2, told.shape[1] + 6, dtype=torch.long)
    whole[:, :40] = mask
    other[0, 3] = 94  # under the padding anything may stand
    model.generate(other, attention_mask=whole, past_key_values=cache, pad_token_id=0, **OPTIONS)
    wrong = torch.cat([other, zoo.prompt(9, batch=2, seed=8)], dim=1)
    wrong[0, 17] = 94
    whole = torch.cat([whole, torch.ones(2, 9, dtype=torch.long)], dim=1)
    with pytest.raises(CacheMismatchError, match="as token 8 of sequence 0"):
        model.generate(wrong, attention_mask=whole, past_key_values=cache, pad_token_id=0, **OPTIONS)


@pytest.mark.parametrize("count", [30, 60], ids=["shorter", "longer"])
def test_documents_in_turn_through_one_cache(model, count: int) -> None:
    cache = lava_cache(model)
    model.generate(PROMPT, past_key_values=cache, **OPTIONS)
    with pytest.raises((CacheMismatchError, InputError)) as caught:
        model.generate(zoo.prompt(count, batch=2, seed=3), past_key_values=cache, **OPTIONS)
    assert "new LavaCache" in caught.value.fix


def test_a_plain_forward_with_the_mask_of_another_text_is_refused(model) -> None:
    cache, ids = lava_cache(model), zoo.prompt(50, batch=2, seed=3)
    feed(model, cache, [PROMPT])
    before = contents(cache) if model.config.model_type != "falcon_h1" else None
    with refuses(InputError, "attention_mask", "(2, 50)"):
        feed(model, cache, [ids], attention_mask=torch.ones_like(ids))
    if before is not None:
        assert_same_contents(before, cache)


def test_a_wider_batch_on_a_filled_cache_is_told_what_to_do(model) -> None:
    cache = lava_cache(model)
    told = model.generate(PROMPT[:1], past_key_values=cache, **OPTIONS)
    with pytest.raises(CacheMismatchError, match=r"copy\.deepcopy"):
        model.generate(_turn(told).expand(3, -1), past_key_values=cache, **OPTIONS)


def test_a_text_in_the_place_of_padding_is_another_text(model) -> None:
    """Also where the padding is within the window, so that its entries are there."""
    cache, mask = lava_cache(model), torch.ones_like(PROMPT)
    mask[0, :35] = 0
    told = model.generate(PROMPT, attention_mask=mask, past_key_values=cache, pad_token_id=0, **OPTIONS)
    other = _turn(told)
    other[0, :35] = 93
    for whole in (torch.ones_like(other), None):
        with pytest.raises(CacheMismatchError, match="id 93"):
            model.generate(other, attention_mask=whole, past_key_values=cache, pad_token_id=0, **OPTIONS)


def test_several_sequences_from_rows_that_were_repeated(model) -> None:
    cache, prompt = lava_cache(model), PROMPT[:1]
    feed(model, cache, [prompt[:, :-1].repeat(2, 1)])
    answers = model.generate(prompt, past_key_values=cache, num_return_sequences=2, do_sample=True, max_new_tokens=3)
    assert answers.shape == (2, 43)


def test_after_a_failed_forward_generate_says_so(model) -> None:
    cache = lava_cache(model)
    feed(model, cache, [PROMPT])
    hook = model.get_decoder().layers[-1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        feed(model, cache, [zoo.prompt(10, batch=2)])
    hook.remove()
    with pytest.raises(lavakv.CacheStateError, match="half-way"):
        model.generate(_turn(PROMPT), past_key_values=cache, **OPTIONS)


def test_negative_ids_are_ids() -> None:
    ids = torch.tensor([[5, -200, 7]])
    assert tokens_of(ids).equal(ids)
    assert bool((tokens_of(torch.randn(1, 3, 8)) < -(1 << 60)).all())


class TestEmbeddings:
    """Columns that came as embeddings are remembered by a fingerprint."""

    @pytest.fixture
    def model(self):
        return lavakv.enable(zoo.tiny("llama"))

    def _filled(self, model):
        cache = lava_cache(model)
        new = model.generate(inputs_embeds=model.get_input_embeddings()(PROMPT), past_key_values=cache, **OPTIONS)
        return cache, torch.cat([PROMPT, new], dim=1)

    def test_ids_that_embed_to_what_is_held_go_on(self, model) -> None:
        cache, told = self._filled(model)
        reference = lava_cache(model)
        model.generate(PROMPT, past_key_values=reference, **OPTIONS)
        ids = _turn(told)
        assert model.generate(ids, past_key_values=cache, **OPTIONS).equal(
            model.generate(ids, past_key_values=reference, **OPTIONS)
        )

    def test_embeddings_go_on_from_ids_and_embeddings(self, model) -> None:
        cache, told = self._filled(model)
        embeddings = model.get_input_embeddings()(_turn(told))
        ids = lava_cache(model)
        model.generate(PROMPT, past_key_values=ids, **OPTIONS)
        one, other = (
            model.generate(inputs_embeds=embeddings, past_key_values=held, **OPTIONS) for held in (cache, ids)
        )
        assert one.equal(other)

    @pytest.mark.parametrize("way", ["ids", "embeddings"])
    def test_others_are_refused(self, model, way: str) -> None:
        cache, told = self._filled(model)
        other = _turn(told)
        other[1, 12] = 94
        sent = {"input_ids": other} if way == "ids" else {"inputs_embeds": model.get_input_embeddings()(other)}
        with pytest.raises(CacheMismatchError, match="an embedding as token 12 of sequence 1"):
            model.generate(**sent, past_key_values=cache, **OPTIONS)

    def test_embeddings_of_new_tokens_alone_are_told_what_generate_takes(self, model) -> None:
        cache, _ = self._filled(model)
        with refuses(InputError, "inputs_embeds", "6 columns"):
            new = model.get_input_embeddings()(zoo.prompt(6, batch=2))
            model.generate(inputs_embeds=new, past_key_values=cache, **OPTIONS)

    def test_a_forward_without_new_tokens_is_no_empty_prompt(self, model) -> None:
        cache, told = self._filled(model)
        with refuses(InputError, "input_ids", "an empty input"):
            model(told[:, :0], past_key_values=cache)


def test_fingerprints_differ_where_embeddings_do() -> None:
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        rows = torch.randn(1, 500, 96, generator=generator).to(dtype)
        prints = tokens_of(rows)
        assert bool((prints < 0).all())
        assert len(prints.unique()) == 500
        assert tokens_of(rows[:, 7:9]).equal(prints[:, 7:9])
        changed = rows.clone()
        changed[0, 3, 0] = -changed[0, 3, 0]
        assert (tokens_of(changed) != prints).nonzero().tolist() == [[0, 3]]
    swapped = rows.clone()
    swapped[0, 0, [0, 2]] = rows[0, 0, [2, 0]]
    assert tokens_of(swapped)[0, 0] != prints[0, 0]


def test_a_vision_model_is_compared_by_its_ids() -> None:
    """Its decoder gets embeddings; what the outer model was called with is what a later turn repeats."""
    model = lavakv.enable(zoo.tiny_vision("gemma3"))
    cache = lava_cache(model)
    told = model.generate(PROMPT, past_key_values=cache, **OPTIONS)
    more = _turn(told)
    assert model.generate(more, past_key_values=cache, **OPTIONS).shape[1] == more.shape[1] + 4
    other = lava_cache(model)
    model.generate(PROMPT, past_key_values=other, **OPTIONS)
    more[0, 5] = 94
    with refuses(CacheMismatchError, "input_ids", "id 94"):
        model.generate(more, past_key_values=other, **OPTIONS)
