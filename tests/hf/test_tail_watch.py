"""A budget is what it says: text that comes after the first forward is not compressed, and that is said once."""

from __future__ import annotations

import warnings

import pytest
import torch

import lavakv
from tests.hf import zoo
from tests.hf.helpers import BUDGET, feed, lava_cache, split

WARNING = "Only the first forward of a cache is compressed"


@pytest.fixture
def model():
    return lavakv.enable(zoo.tiny("llama"))


def _said(record: list[warnings.WarningMessage]) -> list[str]:
    return [str(warning.message) for warning in record if WARNING in str(warning.message)]


def test_a_system_prompt_first_is_told(model) -> None:
    cache, text = lava_cache(model), zoo.prompt(120)
    feed(model, cache, [text[:, :20]])
    with pytest.warns(UserWarning, match=f"holds 120 entries per head for a budget of {BUDGET}") as record:
        model.generate(text, past_key_values=cache, max_new_tokens=3, do_sample=False)
    assert len(_said(record)) == 1
    assert "100 tokens came after it" in _said(record)[0]
    assert float(cache.lengths().float().mean()) == 122


def test_a_prompt_in_chunks_is_told_once(model) -> None:
    cache = lava_cache(model)
    with pytest.warns(UserWarning, match=WARNING) as record:
        feed(model, cache, split(zoo.prompt(200), [50] * 4))
    assert len(_said(record)) == 1
    cache.reset()
    with pytest.warns(UserWarning, match=WARNING):
        feed(model, cache, split(zoo.prompt(100), [50, 50]))


@pytest.mark.parametrize(
    ("settings", "chunks"),
    [
        ({}, [100]),
        ({}, [100, BUDGET]),  # as much again as the budget: a question that comes later
        ({}, [100, *[1] * 60]),  # what is generated token by token
        ({"budget": 200}, [40, 100]),  # all of it fits the budget
        ({"max_new_tokens": 80}, [100, 80]),  # announced
        ({"keep": 0.5}, [100, 40]),
    ],
)
def test_what_is_asked_for_is_not_warned_of(model, settings: dict[str, object], chunks: list[int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        feed(model, lava_cache(model, **settings), split(zoo.prompt(sum(chunks)), chunks))


def test_tokens_that_generate_was_asked_for_are_not_warned_of(model) -> None:
    cache = lava_cache(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        told = model.generate(zoo.prompt(100), past_key_values=cache, max_new_tokens=60, do_sample=False)
        more = torch.cat([told, zoo.prompt(10, seed=4)], dim=1)
        model.generate(more, past_key_values=cache, max_new_tokens=60, do_sample=False)
