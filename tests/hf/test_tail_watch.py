"""A budget is what it says: text that comes after the first forward is not compressed, and that is said once."""

from __future__ import annotations

import warnings

import pytest
import torch

import lavakv
from lavakv.hf.contract import cache_argument
from lavakv.hf.recorder import record
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
    with pytest.warns(UserWarning, match=f"holds 120 entries per head for a budget of {BUDGET}") as said:
        model.generate(text, past_key_values=cache, max_new_tokens=3, do_sample=False)
    assert len(_said(said)) == 1
    assert "100 tokens came after it" in _said(said)[0]
    assert float(cache.lengths().float().mean()) == 122


def test_a_prompt_in_chunks_is_told_once(model) -> None:
    cache = lava_cache(model)
    with pytest.warns(UserWarning, match=WARNING) as said:
        feed(model, cache, split(zoo.prompt(200), [50] * 4))
    assert len(_said(said)) == 1
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


def test_a_length_that_generate_was_asked_for_is_not_warned_of(model) -> None:
    """Also where drafts come several tokens at a time."""
    cache, half = lava_cache(model), zoo.prompt(50)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.generate(
            half.repeat(1, 2), past_key_values=cache, max_length=200, do_sample=False, prompt_lookup_num_tokens=4
        )
    assert int(cache.lengths().min()) > 2 * BUDGET


def test_padding_of_the_prompt_is_no_later_text(model) -> None:
    cache, mask = lava_cache(model), torch.ones(2, 130, dtype=torch.long)
    mask[:, :100] = 0
    ids = zoo.prompt(130, batch=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        feed(model, cache, [ids[:, :128]], attention_mask=mask[:, :128])
        feed(model, cache, [ids[:, 128:]], attention_mask=mask)


def test_a_warning_made_an_error_leaves_the_cache_as_it_was(model) -> None:
    cache, chunks = lava_cache(model), split(zoo.prompt(140), [40, 100])
    feed(model, cache, chunks[:1])
    held = cache.lengths()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(UserWarning, match=WARNING):
            feed(model, cache, chunks[1:])
    assert cache.lengths().equal(held)
    assert feed(model, cache, chunks[1:]).isfinite().all()


def test_the_warning_points_at_the_users_line(model) -> None:
    cache, chunks = lava_cache(model), split(zoo.prompt(140), [40, 100])
    feed(model, cache, chunks[:1])
    with pytest.warns(UserWarning, match=WARNING) as said:
        model(chunks[1], **cache_argument(model, cache))
    assert said[0].filename == __file__


def test_a_cache_filled_from_a_recording_is_sent_what_comes_next_on_purpose(model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        cache = record(model, zoo.prompt(100)).fill(lava_cache(model))
        feed(model, cache, [zoo.prompt(80)])
