from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavakv import TaskError
from lavakv.tasks.generated import Draft, Fitter, largest, random_of, token_count


@given(limit=st.integers(0, 300), smallest=st.integers(1, 40), most=st.none() | st.integers(40, 200))
def test_the_largest_size_that_fits(limit: int, smallest: int, most: int | None) -> None:
    found = largest(lambda size: size <= limit, smallest, most)
    expected = limit if most is None else min(limit, most)
    assert found == (expected if limit >= smallest else None)


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
    with pytest.raises(TaskError, match="expected prompts of 20 tokens, got 51 at least"):
        Fitter(tokenizer, 20, 5).fitted(lambda size: Draft("0" * size * 10, "", ()))


def test_tokens_are_counted_with_template_and_prefix(tokenizer, chat_tokenizer) -> None:
    draft = Draft("012", "34", (), answer_prefix="56")
    assert token_count(tokenizer, draft) == 1 + 7
    text = chat_tokenizer.apply_chat_template(
        [{"role": "user", "content": "01234"}], add_generation_prompt=True, tokenize=False
    )
    assert token_count(chat_tokenizer, draft) == len(chat_tokenizer(text, add_special_tokens=False)["input_ids"]) + 2


def test_randomness_depends_on_all_parts() -> None:
    assert random_of(42, "a", 1).random() == random_of(42, "a", 1).random()
    assert len({random_of(*parts).random() for parts in ((42, "a", 1), (42, "a", 2), (42, "b", 1), (43, "a", 1))}) == 4
    assert random_of(42, "needle").randrange(10**9) == 120202288  # on every machine
