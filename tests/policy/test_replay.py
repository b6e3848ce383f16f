from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavakv import PolicyError
from lavakv.policy.registry import get_policy
from lavakv.policy.replay import Replay
from tests.errors import assert_all_parts


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 15), st.integers(0, 3), st.integers(0, 3))
def test_chunks_cover_the_prompt_once(tokens: int, chunk: int, overlap: int, first: int, later: int) -> None:
    replay = Replay((91,) * first, (92,) * later, (93,), chunk, overlap)
    prompt, stops = torch.arange(tokens), [0]
    found = list(replay.chunks(prompt))
    for ids, start, stop in found:
        assert start == stops[-1]
        assert 0 < stop - start <= chunk
        before = min(overlap, chunk) if start else 0
        request = [92] * later if start else [91] * first
        assert ids.tolist() == [*request, *range(start - before, start), 93, *range(start, stop)]
        stops.append(stop)
    assert stops[-1] == tokens
    assert replay.max_rows(tokens) == max(len(ids) for ids, _, _ in found)


def test_without_settings_the_prompt_follows_itself() -> None:
    prompt = torch.arange(3000)
    (first, *_), (second, *_) = Replay().chunks(prompt)
    assert first.equal(prompt[:2048])
    assert second.equal(prompt[2040:])
    assert get_policy("kvzip").replay == get_policy("kvzip+").replay == Replay()


def test_a_request_in_words() -> None:
    def tokenizer(text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(letter) for letter in text]}

    replay = Replay.asking(tokenizer, answer_start="A:", first="Again", later="From")
    assert replay == Replay(tuple(b"Again"), tuple(b"From"), tuple(b"A:"))
    assert Replay.asking(tokenizer).first_request != Replay.asking(tokenizer).later_request
    assert not Replay.asking(tokenizer).answer_start


@pytest.mark.parametrize(
    ("argument", "value"),
    [("first_request", [1, -2]), ("later_request", [1.5]), ("answer_start", ["a"]), ("first_request", [True]),
     ("chunk_tokens", 0), ("chunk_tokens", 3.0), ("overlap_tokens", -1), ("overlap_tokens", True)],
)  # fmt: skip
def test_bad_settings_are_named(argument: str, value: object) -> None:
    with pytest.raises(PolicyError, match=f"{argument} of the replay: expected ") as caught:
        Replay(**{argument: value})  # type: ignore[arg-type]
    assert_all_parts(caught.value)
