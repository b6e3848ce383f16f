from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavakv import TaskError
from lavakv.tasks.fitting import Fitter, largest
from lavakv.tasks.generated import Draft, seeded_random, token_count


@given(limit=st.integers(0, 300), min_size=st.integers(1, 40), max_size=st.none() | st.integers(40, 200))
def test_the_largest_size_that_fits(limit: int, min_size: int, max_size: int | None) -> None:
    found = largest(lambda size: size <= limit, min_size, max_size)
    expected = limit if max_size is None else min(limit, max_size)
    assert found == (expected if limit >= min_size else None)


@given(per_unit=st.lists(st.integers(1, 9), min_size=1, max_size=6), room=st.integers(20, 400))
def test_every_draft_fits_whatever_the_first_one_was(per_unit: list[int], room: int, tokenizer) -> None:
    """Units of other examples may cost more or fewer tokens than the first one's."""
    fitter = Fitter(tokenizer, room, 1)
    for cost in per_unit:
        draft = fitter.fitted(lambda size, cost=cost: Draft("0" * size * cost, "", ()))
        assert token_count(tokenizer, draft) <= room
        assert len(draft.context) % cost == 0
        assert draft.context


def test_no_size_fits(tokenizer) -> None:
    with pytest.raises(TaskError, match="expected prompts of 20 tokens, got 51 or more"):
        Fitter(tokenizer, 20, 5).fitted(lambda size: Draft("0" * size * 10, "", ()))


def test_tokens_are_counted_with_template_and_prefix(tokenizer, chat_tokenizer) -> None:
    draft = Draft("012", "34", (), answer_prefix="56")
    assert token_count(tokenizer, draft) == 1 + 7
    text = chat_tokenizer.apply_chat_template(
        [{"role": "user", "content": "01234"}], add_generation_prompt=True, tokenize=False
    )
    assert token_count(chat_tokenizer, draft) == len(chat_tokenizer(text, add_special_tokens=False)["input_ids"]) + 2


def test_randomness_depends_on_all_parts() -> None:
    assert seeded_random(42, "a", 1).random() == seeded_random(42, "a", 1).random()
    keys = ((42, "a", 1), (42, "a", 2), (42, "b", 1), (43, "a", 1))
    assert len({seeded_random(*key).random() for key in keys}) == 4
    assert seeded_random(42, "needle").randrange(10**9) == 120202288  # on every machine


def test_a_template_that_tells_the_date_always_tells_the_same(chat_tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(type(chat_tokenizer), "apply_chat_template", lambda *_, **more: asked.append(more) or "text")
    token_count(chat_tokenizer, Draft("a", "b", ()))
    assert asked[0]["date_string"] == "26 Jul 2024"
