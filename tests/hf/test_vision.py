"""Images inside the prompt: Gemma-3, whose image tokens see each other both ways, and Qwen2-VL's three-axis RoPE."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

import lavakv
from lavakv.scoring.lava import lava_score
from lavakv.scoring.window import ScoringWindow
from tests.hf import zoo
from tests.hf.helpers import BUDGET, WINDOW, kept, lava_cache, typical

PROMPT, NEW = 64, 6
IMAGE_TOKENS = 4
PLACES = {"inside the window": 58, "across its border": 54, "before it": 20}


def _inputs(kind: str, start: int) -> dict[str, Tensor]:
    ids = zoo.prompt(PROMPT)
    ids[0, start : start + IMAGE_TOKENS] = 90
    types = (ids == 90).long()
    torch.manual_seed(3)
    if kind == "gemma3":
        return {"input_ids": ids, "token_type_ids": types, "pixel_values": torch.randn(1, 3, 16, 16)}
    ids[0, start - 1] = 92
    patches = {"pixel_values": torch.randn(16, 96), "image_grid_thw": torch.tensor([[1, 4, 4]])}
    return {"input_ids": ids, "mm_token_type_ids": types, **patches}


def _by_definition(window: ScoringWindow, visible: Tensor, dtype: torch.dtype) -> Tensor:
    """LAVa's score, one query head and one position at a time."""
    queries, keys, values = (t.to(dtype) for t in (window.queries, window.keys[0], window.values[0]))
    evictable = PROMPT - WINDOW
    score = torch.zeros(keys.shape[0], evictable, dtype=dtype)
    for head, group in enumerate(queries):
        largest = values[head, :evictable].abs().sum(-1).max()
        for rows in group:
            logits = (rows @ keys[head].T * window.scaling).masked_fill(~visible, float("-inf"))
            weights = logits.softmax(-1)[:, :evictable].mean(0)
            for position in range(evictable):
                around = weights[max(position - 3, 0) : position + 4].max()
                score[head, position] = max(score[head, position], largest * around)
    return score


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("start", PLACES.values(), ids=PLACES)
def test_image_tokens_see_each_other_in_the_scores(start: int, attention: str) -> None:
    """Against float64, where the score may err twice as much as the definition itself does in float32."""
    seen: list[tuple[ScoringWindow, Tensor]] = []

    def score(window: ScoringWindow) -> Tensor:
        seen.append((window, lava_score(window)))
        return seen[-1][1]

    model = lavakv.enable(zoo.tiny_vision("gemma3", attention=attention))
    cache = lava_cache(model, policy=lavakv.Policy("recording", "lava, and what it saw", score))
    with torch.no_grad():
        model(**_inputs("gemma3", start), past_key_values=cache)
    causal = torch.ones(PROMPT, PROMPT, dtype=torch.bool).tril()
    both_ways = causal.clone()
    both_ways[start : start + IMAGE_TOKENS, start : start + IMAGE_TOKENS] = True
    assert [window.layer for window, _ in seen] == list(cache.layer_indices)
    for window, got in seen:
        exact, rounded = (_by_definition(window, both_ways[-WINDOW:], t) for t in (torch.float64, torch.float32))
        ulp = torch.finfo(torch.float32).eps * float(exact.square().mean().sqrt())
        bound = 2 * typical(rounded, exact) + ulp
        assert typical(got, exact) <= bound
        one_way = typical(_by_definition(window, causal[-WINDOW:], torch.float64), exact)
        reaches_window = start + IMAGE_TOKENS > PROMPT - WINDOW
        assert (one_way > 100 * bound) == reaches_window, "else a causal score would pass as well"


@pytest.mark.parametrize("kind", ["gemma3", "qwen2_vl"])
def test_image_prompt_within_budget_gives_the_plain_logits(kind: str) -> None:
    model, inputs, question = zoo.tiny_vision(kind), _inputs(kind, 20), zoo.prompt(NEW, seed=4)
    plain_cache = DynamicCache(config=model.config)
    plain = _logits(model, inputs, question, plain_cache)
    lavakv.enable(model)
    got = _logits(model, inputs, question, lava_cache(model, budget=PROMPT))
    exact_inputs = {name: t.double() if t.is_floating_point() else t for name, t in inputs.items()}
    model.double()
    exact = _logits(model, exact_inputs, question, DynamicCache(config=model.config))
    ulp = torch.finfo(torch.float32).eps * float(exact.square().mean().sqrt())
    assert typical(got, exact) <= 2 * typical(plain, exact) + ulp


@pytest.mark.parametrize("kind", ["gemma3", "qwen2_vl"])
def test_image_prompt_through_generate_equals_the_masked_store(kind: str) -> None:
    model, inputs = lavakv.enable(zoo.tiny_vision(kind)), _inputs(kind, 20)
    caches = [lava_cache(model, store=store) for store in ("ragged", "masked")]
    texts = [
        model.generate(**inputs, past_key_values=cache, max_new_tokens=NEW, do_sample=False, eos_token_id=None)
        for cache in caches
    ]
    assert texts[0].equal(texts[1])
    assert kept(caches[0]) == kept(caches[1])
    lengths = caches[0].lengths()
    assert int(lengths.sum()) == (BUDGET + NEW - 1) * lengths.numel()


@torch.no_grad()
def _logits(model: nn.Module, inputs: dict[str, Tensor], question: Tensor, cache: object) -> Tensor:
    """Logits of the prompt's last token, and of two chunks that follow it."""
    logits = [model(**inputs, past_key_values=cache).logits[:, -1:]]
    logits += [model(input_ids=ids, past_key_values=cache).logits for ids in question.split([1, NEW - 1], dim=1)]
    return torch.cat(logits, dim=1)
