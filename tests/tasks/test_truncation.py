from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavakv import TaskError
from lavakv.tasks import middle_truncated

TEXT = st.text(alphabet="abc .\nö漢", max_size=80)


@given(text=TEXT, limit=st.integers(2, 60))
def test_both_ends_stay(text: str, limit: int, tokenizer) -> None:
    """With single characters for tokens it is plain slicing; the token at the start counts and is not decoded."""
    cut = middle_truncated(tokenizer, text, limit)
    ids = tokenizer(text)["input_ids"]
    if len(ids) <= limit:
        assert cut == text
    else:
        half = limit // 2
        first, last = tokenizer.decode(ids[1:half]), tokenizer.decode(ids[len(ids) - half :])
        assert cut == first + last


def test_a_known_case(tokenizer) -> None:
    """A start token and 0..9; 6 tokens are the start token, 0, 1 and 7, 8, 9."""
    assert middle_truncated(tokenizer, "0123456789", 6) == "01789"
    assert middle_truncated(tokenizer, "0123456789", 7) == "01789"
    assert middle_truncated(tokenizer, "0123456789", 11) == "0123456789"


def test_a_limit_without_room(tokenizer) -> None:
    with pytest.raises(TaskError, match="at least 2 tokens"):
        middle_truncated(tokenizer, "text", 1)
