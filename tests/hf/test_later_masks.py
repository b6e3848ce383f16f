"""Masks of later forwards count over what the cache holds, as they do over a full cache."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

import lavakv
from lavakv import InputError, UnsupportedError
from lavakv.hf.contract import cache_argument
from tests.hf import zoo
from tests.hf.helpers import BY_POSITION, assert_same_contents, contents, feed, kept, lava_cache, refuses, worst

PROMPT, TURN, MORE = zoo.prompt(40, batch=2), zoo.prompt(6, batch=2, seed=1), zoo.prompt(5, batch=2, seed=2)
ALL = torch.cat([PROMPT, TURN, MORE], dim=1)
HIDDEN = torch.ones(2, ALL.shape[1], dtype=torch.long)
HIDDEN[1, 42:46] = 0  # what generate filled a finished row with
HIDDEN[0, 3:9] = 0  # a passage of the prompt


def _positions(mask: Tensor, count: int) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)[:, -count:]


def _four_axes(mask: Tensor, count: int, dtype: torch.dtype | None = None) -> Tensor:
    """The same as a 4-D mask: boolean, or additive in a dtype."""
    causal = torch.ones(count, mask.shape[1], dtype=torch.bool).tril(mask.shape[1] - count)
    seen = mask[:, None, None, :].bool() & causal
    if dtype is None:
        return seen
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


@torch.no_grad()
def _logits(model: nn.Module, cache: object, mask: object, count: int) -> Tensor:
    """A prompt, a turn token by token under masks of ones, then `count` new tokens under a mask of the caller's."""
    model(PROMPT, past_key_values=cache, use_cache=True)
    for index in range(TURN.shape[1]):
        model(TURN[:, index : index + 1], past_key_values=cache, use_cache=True)
    positions = _positions(HIDDEN[:, : 46 + count], count)
    return model(MORE[:, :count], attention_mask=mask, position_ids=positions, past_key_values=cache).logits


def _masks(count: int) -> dict[str, object]:
    two = HIDDEN[:, : 46 + count]
    return {"2-D": two, "4-D": _four_axes(two, count), "additive": _four_axes(two, count, torch.float64)}


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("way", ["2-D", "4-D", "additive"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "qwen3_moe"])
def test_hidden_columns_are_hidden_where_nothing_is_evicted(kind: str, attention: str, way: str, count: int) -> None:
    """Eager attention rounds its softmax to float32, so sdpa is the measure of both."""
    if attention == "eager" and way == "4-D":
        pytest.skip("eager attention adds a mask to the logits, also a boolean one")
    model, exact = (lavakv.enable(zoo.tiny(kind, torch.float64, attention=name)) for name in (attention, "sdpa"))
    mask = _masks(count)[way]
    expected = _logits(exact, DynamicCache(config=exact.config), mask, count)
    rounding = worst(_logits(model, DynamicCache(config=model.config), mask, count), expected)
    for store in ("ragged", "masked"):
        ours = _logits(model, lava_cache(model, budget=1000, store=store), mask, count)
        assert worst(ours, expected) <= 2 * rounding + 1e-12
    ignoring = _logits(exact, DynamicCache(config=exact.config), None, count)
    assert worst(expected, ignoring) > 1e-2  # what the mask hides matters


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("way", ["2-D", "4-D"])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_ragged_equals_masked_where_much_is_evicted(kind: str, way: str, count: int) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    if kind == "gemma3_text" and way == "4-D":
        pytest.skip("its sliding layers take a mask of their own")
    mask = _masks(count)[way]
    caches = [lava_cache(model, store=store, policy=BY_POSITION) for store in ("ragged", "masked")]
    ragged, masked = (_logits(model, cache, mask, count) for cache in caches)
    assert kept(caches[0]) == kept(caches[1])
    assert worst(ragged, masked) < 1e-10


def test_the_fast_paths_count_masks_too() -> None:
    """float32 (the C kernel where there is one), bfloat16 (blocks) and the plain path agree with the masked store."""
    for dtype in (torch.float32, torch.bfloat16):
        model = lavakv.enable(zoo.tiny("llama", dtype))
        masked = _logits(model, lava_cache(model, store="masked", policy=BY_POSITION), HIDDEN[:, :47], 1)
        ragged = _logits(model, lava_cache(model, policy=BY_POSITION), HIDDEN[:, :47], 1)
        plain = _logits(model, lava_cache(model, policy=BY_POSITION), None, 1)
        assert worst(ragged, masked) < 0.1 * worst(plain, masked)


def test_a_row_that_is_hidden_whole_keeps_its_new_tokens() -> None:
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    mask = HIDDEN[:, :51].clone()
    mask[1, :46] = 0
    assert _logits(model, lava_cache(model), mask, 5).isfinite().all()


def test_padding_stays_hidden_without_a_mask_and_with_the_same_one() -> None:
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    mask = torch.ones(2, 45, dtype=torch.long)
    mask[0, :7] = 0
    prompt = {"attention_mask": mask[:, :40], "position_ids": _positions(mask[:, :40], 40)}
    answers = []
    for later in (None, mask):
        cache = lava_cache(model, budget=1000)
        with torch.no_grad():
            model(PROMPT, **prompt, past_key_values=cache)
            then = {"attention_mask": later, "position_ids": _positions(mask, 5)}
            answers.append(model(MORE, **then, past_key_values=cache).logits)
    assert worst(*answers) < 1e-12


@pytest.mark.parametrize("way", ["2-D", "4-D"])
def test_a_mask_that_brings_padding_back_is_refused(way: str) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    mask, cache = torch.ones(2, 40, dtype=torch.long), lava_cache(model)
    mask[0, :7] = 0
    feed(model, cache, [PROMPT], attention_mask=mask)
    before = contents(cache)
    later = torch.ones(2, 45, dtype=torch.long)
    with refuses(InputError, "attention_mask", "shows some of it"):
        feed(model, cache, [MORE], attention_mask=later if way == "2-D" else _four_axes(later, 5))
    assert_same_contents(before, cache)


def test_what_a_device_alone_knows_is_refused_at_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    from lavakv.hf import given_mask

    model = lavakv.enable(zoo.tiny("llama"))
    mask, cache = torch.ones(2, 40, dtype=torch.long), lava_cache(model)
    mask[0, :7] = 0
    feed(model, cache, [PROMPT], attention_mask=mask)
    with monkeypatch.context() as patch:
        patch.setattr(given_mask, "host_readable", lambda _: False)
        feed(model, cache, [MORE[:, :1]], attention_mask=torch.ones(2, 41, dtype=torch.long))
    for look in (cache.lengths, lambda: model.generate(ALL[:, :44], past_key_values=cache, max_new_tokens=2)):
        with refuses(InputError, "attention_mask", "shows some of it"):
            look()


BAD = {
    "columns of new tokens alone": (torch.ones(2, 1, 5, 5).bool(), InputError, "(2, 1, 5, 5)"),
    "another batch": (torch.ones(3, 1, 5, 45).bool(), InputError, "(3, 1, 5, 45)"),
    "a mask per head": (torch.ones(2, 4, 5, 45).bool(), UnsupportedError, "each of 4 heads"),
    "numbers to add": (torch.full((2, 1, 5, 45), -0.5), UnsupportedError, "other numbers"),
    "whole numbers": (torch.ones(2, 1, 5, 45, dtype=torch.long), UnsupportedError, "int64"),
    "2-D, of new tokens alone": (torch.ones(2, 5, dtype=torch.long), InputError, "(2, 5)"),
}


@pytest.mark.parametrize("name", BAD)
def test_masks_that_cannot_count_are_refused_and_the_cache_is_unchanged(name: str) -> None:
    mask, error, got = BAD[name]
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, [PROMPT])
    before = contents(cache)
    with refuses(error, "attention_mask", got):
        feed(model, cache, [MORE], attention_mask=mask)
    assert_same_contents(before, cache)


@torch.no_grad()
def test_the_mask_a_vision_model_makes_counts() -> None:
    """Its outer model turns the 2-D mask into a dictionary of 4-D ones before the decoder sees it."""
    model = lavakv.enable(zoo.tiny_vision("gemma3", torch.float64))
    mask = HIDDEN[:, :51]
    for count in (1, 5):
        positions = _positions(mask[:, : 46 + count], count)
        answers = []
        for cache in (DynamicCache(config=model.config), lava_cache(model, budget=1000)):
            model(input_ids=PROMPT, past_key_values=cache)
            model(input_ids=TURN, past_key_values=cache)
            ids = {"input_ids": MORE[:, :count], "attention_mask": mask[:, : 46 + count], "position_ids": positions}
            answers.append(model(**ids, past_key_values=cache).logits)
        assert worst(*answers) < 1e-10


@torch.no_grad()
def test_a_tree_of_drafts_is_attended_to_branch_by_branch() -> None:
    """Each draft sees its own ancestors: not every later one sees an earlier one, and all of them are tokens."""
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    tree = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0], [1, 0, 0, 1, 1]]).bool()
    mask = torch.cat([torch.ones(5, 40, dtype=torch.bool), tree], dim=1)[None, None].expand(2, -1, -1, -1)
    positions = (40 + tree.sum(dim=1) - 1).expand(2, -1)
    answers = []
    for cache in (DynamicCache(config=model.config), lava_cache(model, budget=1000)):
        model(PROMPT, **cache_argument(model, cache))
        given = {"attention_mask": mask, "position_ids": positions, **cache_argument(model, cache)}
        answers.append(model(MORE, **given).logits)
    assert worst(*answers) < 1e-12
    assert cache.lengths().unique().tolist() == [45]
