"""Every way of `generate`, against the masked oracle and, where nothing is evicted, against a `DynamicCache`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

import lavakv
from lavakv import InputError, UnsupportedError
from lavakv.hf.contract import cache_argument
from tests.hf import zoo
from tests.hf.helpers import assert_like_new, feed, kept, lava_cache, refuses, split

KINDS = ["llama", "qwen2", "gemma3_text", "gpt_oss"]
PROMPT, NEW = 40, 16
ABOVE = 512  # a budget that nothing is evicted at
BEAMS: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 3},
    "several beams back": {"num_beams": 4, "num_return_sequences": 2},
    "sampled beams": {"num_beams": 3, "do_sample": True},
    "early stop": {"num_beams": 3, "early_stopping": True, "length_penalty": 0.5},
}
SPECULATION = ["prompt_lookup_num_tokens", "assistant_model", "assistant_early_exit"]


def speculative(name: str, kind: str) -> dict[str, Any]:
    """The option that has tokens drafted."""
    if name == "assistant_model":
        # Where transformers 5.17 can, the model itself, which agrees with the compressed one until it does not; there,
        # an assistant with sliding layers cannot draft two tokens with any cache.
        own = kind in ("llama", "qwen2")
        assistant = zoo.tiny(kind if own else "llama", torch.float64, **({} if own else {"num_hidden_layers": 2}))
        assistant.generation_config.assistant_confidence_threshold = 0.0
        return {name: assistant}
    return {name: 3 if name.startswith("prompt") else 1}


def text(batch: int = 1) -> Tensor:
    """A prompt that says everything twice, so that there is something to look up."""
    half = zoo.prompt(PROMPT // 2, batch=batch)
    return torch.cat([half, half], dim=1)


def generate(model: nn.Module, cache: object, ids: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Token ids and the logits of every new one."""
    torch.manual_seed(3)
    asked = {"max_new_tokens": NEW, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    output = model.generate(ids, **cache_argument(model, cache), **asked | options)
    return output.sequences, torch.stack(output.logits, dim=1)


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """Equal tokens; logits, which `generate` turns into float32, equal but for its rounding."""
    assert found[0].equal(expected[0])
    assert torch.allclose(found[1], expected[1], rtol=1e-6, atol=1e-6)


def forwards(model: nn.Module) -> list[int]:
    """Counts in its only element the forwards of a model from now on."""
    count = [0]
    model.register_forward_hook(lambda *_: count.__setitem__(0, count[0] + 1))
    return count


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
    from lavakv.store.past import RaggedPast

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


class Noting(BaseStreamer):
    """Notes what comes, in order."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.ids += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


class Forbid(LogitsProcessor):
    """Forbids what a model would say first."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(1, torch.tensor([17, 20, 30]), float("-inf"))


OPTIONS: dict[str, dict[str, Any]] = {
    "max_length": {"max_length": PROMPT + 9, "max_new_tokens": None},
    "min_new_tokens": {"min_new_tokens": 5},
    "stopping criteria": {"stopping_criteria": StoppingCriteriaList([lambda ids, _: ids.shape[1] >= PROMPT + 4])},
    "logits processors": {"logits_processor": LogitsProcessorList([Forbid()])},
    "allowed tokens": {"prefix_allowed_tokens_fn": lambda _, ids: [5 + len(ids) % 7, 40, 41]},
    "bad words": {"bad_words_ids": [[7], [9, 11]], "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    "guidance": {"guidance_scale": 1.5},
    "sampling": {"do_sample": True, "top_k": 20, "top_p": 0.9, "temperature": 0.8},
    "watermark and penalties": {"encoder_repetition_penalty": 1.2, "suppress_tokens": [6, 8]},
    "config": {"generation_config": GenerationConfig(max_new_tokens=7, num_beams=2, return_dict_in_generate=True)},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_options(kind: str, name: str) -> None:
    model, ids = lavakv.enable(zoo.tiny(kind, torch.float64)), text(batch=2)
    options = OPTIONS[name] if name != "config" else {**OPTIONS[name], "max_new_tokens": 7}
    ragged, masked = lava_cache(model), lava_cache(model, store="masked")
    found = generate(model, ragged, ids, **options)
    assert found[0].shape[1] > PROMPT
    assert_same(found, generate(model, masked, ids, **options))
    above, stock = lava_cache(model, budget=ABOVE), DynamicCache(config=model.config)
    assert_same(generate(model, above, ids, **options), generate(model, stock, ids, **options))


@pytest.mark.parametrize("options", [{}, {"prompt_lookup_num_tokens": 3}], ids=["plain", "lookup"])
def test_streamers(options: dict[str, Any]) -> None:
    model, streamer = lavakv.enable(zoo.tiny("llama", torch.float64)), Noting()
    tokens, _ = generate(model, lava_cache(model), text(), streamer=streamer, **options)
    assert streamer.ids == tokens[0].tolist()
    assert streamer.ended


def test_a_generation_that_was_stopped_can_be_continued() -> None:
    """The cache knows what it holds: the text so far continues it, another one is refused by name."""

    class StopsAt(Noting):
        def put(self, value: Tensor) -> None:
            super().put(value)
            if len(self.ids) > PROMPT + 4:
                raise RuntimeError("the user left")

    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    whole, _ = generate(model, lava_cache(model), text())
    cache, streamer = lava_cache(model), StopsAt()
    with pytest.raises(RuntimeError, match="the user left"):
        generate(model, cache, text(), streamer=streamer)
    left = whole.shape[1] - len(streamer.ids)
    again, _ = generate(model, cache, torch.tensor([streamer.ids]), max_new_tokens=left)
    assert again.equal(whole)
    with refuses(lavakv.CacheMismatchError, "input_ids"):
        generate(model, cache, torch.cat([zoo.prompt(80, seed=4), text()], dim=1))


def test_a_custom_loop_of_the_caller_s() -> None:
    def two_tokens(model: Any, input_ids: Tensor, **kwargs: Any) -> Tensor:
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        for _ in range(2):
            logits = model(input_ids[:, cache.get_seq_length() :], past_key_values=cache).logits
            input_ids = torch.cat([input_ids, logits[:, -1:].argmax(-1)], dim=1)
        return input_ids

    model = lavakv.enable(zoo.tiny("llama"))
    found = model.generate(text(), custom_generate=two_tokens, past_key_values=lava_cache(model))
    assert found.equal(model.generate(text(), past_key_values=lava_cache(model), max_new_tokens=2, do_sample=False))


REMOTE = {
    "contrastive search": {"penalty_alpha": 0.6, "top_k": 4},
    "DoLa": {"dola_layers": "low"},
    "group beam search": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "constrained beam search": {"num_beams": 2, "force_words_ids": [[7]]},
}


@pytest.mark.parametrize("name", REMOTE)
def test_what_transformers_took_out_is_refused_by_transformers(name: str) -> None:
    """These modes are code from the hub, which nobody has trusted here; the cache stays as it was."""
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    with pytest.raises((ValueError, OSError)):
        model.generate(text(), past_key_values=cache, max_new_tokens=2, do_sample=False, **REMOTE[name])
    assert_like_new(model, cache, lava_cache(model))


def test_a_model_that_is_copied_drafts_as_before() -> None:
    model = copy.deepcopy(lavakv.enable(zoo.tiny("llama", torch.float64)))
    plain = generate(model, lava_cache(model), text())
    assert_same(generate(model, lava_cache(model), text(), prompt_lookup_num_tokens=3), plain)
    lavakv.disable(model)
    own = {"generate", "_get_candidate_generator", "prepare_inputs_for_generation"} & model.__dict__.keys()
    assert not own


def test_input_errors_before_anything_is_moved() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, split(zoo.prompt(PROMPT), [PROMPT]))
    with refuses(InputError, "input_ids"):
        model.generate(zoo.prompt(3), past_key_values=cache, num_beams=3, max_new_tokens=2)
    assert cache.batch_size == 1
