"""Options of `generate`: the masked store is the oracle, or a `DynamicCache` where nothing is evicted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

import lavakv
from tests.hf import zoo
from tests.hf.generation import ABOVE, PROMPT, assert_same, generate, text
from tests.hf.helpers import assert_like_new, lava_cache, refuses


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
