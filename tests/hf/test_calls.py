"""Every way to call a model: ids or embeddings, positional arguments, modes, masks, pipelines."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TextGenerationPipeline

import lavakv
from lavakv.hf.contract import cache_name
from tests.hf import zoo
from tests.hf.helpers import BY_POSITION, feed, kept, lava_cache, split

KINDS = ["llama", "gemma3_text", "gpt_oss", "gpt2", "gpt_neox", "qwen3_next"]
CHUNKS = split(zoo.prompt(44), [40, 1, 3])
GREEDY = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}


@pytest.mark.parametrize("kind", KINDS)
def test_inference_mode_gives_the_same(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    expected, cache = feed(model, lava_cache(model), CHUNKS), lava_cache(model)
    with torch.inference_mode():
        first = model(CHUNKS[0], past_key_values=cache).logits[:, -1:]
        others = [model(ids, past_key_values=cache).logits for ids in CHUNKS[1:]]
    assert torch.cat([first, *others], dim=1).equal(expected)


@pytest.mark.parametrize("store", ["ragged", "masked"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "qwen3_next"])
def test_prompt_in_inference_mode_and_questions_outside(kind: str, store: str) -> None:
    """Qwen3-Next is left out: transformers writes into its own recurrent states, and torch forbids that here."""
    model = lavakv.enable(zoo.tiny(kind))
    expected, cache = feed(model, lava_cache(model, store=store), CHUNKS), lava_cache(model, store=store)
    with torch.inference_mode():
        model(CHUNKS[0], past_key_values=cache)
        feed(model, copy.deepcopy(cache), CHUNKS[1:])
    assert feed(model, cache, [CHUNKS[1], CHUNKS[2]]).equal(expected[:, 1:])


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_instead_of_ids(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    expected, cache = feed(model, lava_cache(model), CHUNKS), lava_cache(model)
    embed, logits = model.get_input_embeddings(), []
    with torch.no_grad():
        for ids in CHUNKS:
            logits.append(model(inputs_embeds=embed(ids), past_key_values=cache).logits)
    assert torch.cat([logits[0][:, -1:], *logits[1:]], dim=1).equal(expected)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_positional_arguments(kind: str) -> None:
    """Given to the decoder itself, whose forward lavakv watches; GPT-2 takes its cache second, Llama fourth."""
    decoder = lavakv.enable(zoo.tiny(kind)).get_decoder()
    names = list(inspect.signature(decoder.forward).parameters)
    named, positional = lava_cache(decoder), lava_cache(decoder)
    with torch.no_grad():
        for ids in CHUNKS:
            expected = decoder(input_ids=ids, past_key_values=named).last_hidden_state
            values = {"input_ids": ids, cache_name(decoder): positional}
            arguments = [values.get(name) for name in names[: names.index(cache_name(decoder)) + 1]]
            assert decoder(*arguments).last_hidden_state.equal(expected)
    assert kept(positional) == kept(named)
    assert positional.get_seq_length() == 44


@pytest.mark.parametrize("additive", [False, True], ids=["boolean", "additive"])
def test_explicit_causal_mask_is_no_mask(additive: bool) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    implied, explicit = lava_cache(model), lava_cache(model)
    expected = feed(model, implied, CHUNKS[:1])
    mask = torch.ones(1, 1, 40, 40, dtype=torch.bool).tril()
    if additive:
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    got = feed(model, explicit, CHUNKS[:1], attention_mask=mask)
    assert kept(explicit) == kept(implied)
    assert got.argmax().equal(expected.argmax())


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_sdpa_and_eager_agree(kind: str) -> None:
    results = []
    for attention in ("sdpa", "eager"):
        model = lavakv.enable(zoo.tiny(kind, torch.float64, attention=attention))
        cache = lava_cache(model, policy=BY_POSITION)
        results.append((model.generate(CHUNKS[0], past_key_values=cache, **GREEDY), kept(cache)))
    assert results[0][0].equal(results[1][0])
    assert results[0][1] == results[1][1]


def test_decoder_without_head() -> None:
    model = zoo.tiny("llama")
    lavakv.enable(model.model)
    cache = lavakv.LavaCache(model.model.config, budget=24, window=8)
    with torch.no_grad():
        hidden = model.model(CHUNKS[0], past_key_values=cache).last_hidden_state
        assert model.lm_head(hidden)[:, -1].equal(model(CHUNKS[0]).logits[:, -1])
    assert int(cache.lengths().sum()) == 24 * 6


def test_text_generation_pipeline() -> None:
    words = {"pad": 0, "w1": 1, "end": 2, "unknown": 3, **{f"w{index}": index for index in range(4, 96)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="unknown"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="pad", eos_token="end")
    model = lavakv.enable(zoo.tiny("llama"))
    cache, reference = lava_cache(model), lava_cache(model)
    expected = model.generate(CHUNKS[0], past_key_values=reference, **GREEDY)[0, 40:]
    pipeline = TextGenerationPipeline(model=model, tokenizer=fast)
    text = " ".join(f"w{token}" for token in CHUNKS[0][0].tolist())
    output = pipeline(text, past_key_values=cache, return_full_text=False, **GREEDY)
    assert output[0]["generated_text"].split() == [f"w{token}" for token in expected.tolist()]
    assert kept(cache) == kept(reference)


def test_beginning_and_end_of_a_generated_text() -> None:
    """One token more each time: the cache never changes what was generated before."""
    model = lavakv.enable(zoo.tiny("llama"))
    texts = []
    for count in (1, 2, 7):
        cache = lava_cache(model)
        texts.append(model.generate(CHUNKS[0], past_key_values=cache, **{**GREEDY, "max_new_tokens": count}))
        assert cache.get_seq_length() == 39 + count
        assert int(cache.lengths().sum()) == (24 + count - 1) * 6
    assert texts[2][:, :41].equal(texts[0])
    assert texts[2][:, :42].equal(texts[1])
