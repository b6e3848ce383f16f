"""Putting a needle at a depth of a haystack, in tokens."""

from __future__ import annotations

from typing import Any

from lavakv.tasks.needle.facts import Fact

ROOM = 200  # tokens for the rest of the prompt and the answer, as in the published test


def hidden(tokenizer: Any, haystack: str, fact: Fact, length: int, depth: float) -> str:
    """A text of about `length - 200` tokens with the needle in it.

    As published: the haystack is repeated as needed and cut, the needle goes in at its share of the tokens, moved back
    to just after a full stop, at 100 percent to the very end. No special token gets in.

    Args:
        tokenizer: the model's.
        haystack: text.
        fact: what is hidden.
        length: tokens of the whole prompt.
        depth: percent.
    """
    needle = _ids(tokenizer, fact.sentence)
    text = _at_least(tokenizer, haystack, max(1, length - ROOM - len(needle)))
    if depth == 100:
        return str(tokenizer.decode(text + needle))
    place = int(len(text) * depth / 100)
    stops = set(_ids(tokenizer, "."))
    while place and text[place - 1] not in stops:
        place -= 1
    return str(tokenizer.decode(text[:place] + needle + text[place:]))


def _at_least(tokenizer: Any, haystack: str, wanted: int) -> list[int]:
    """The first `wanted` tokens of the haystack, repeated as needed."""
    once = _ids(tokenizer, haystack[: wanted * 20])  # no tokenizer's tokens are longer than this on average
    if len(once) < wanted:
        once = _ids(tokenizer, haystack)
    return (once * -(-wanted // len(once)))[:wanted]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
