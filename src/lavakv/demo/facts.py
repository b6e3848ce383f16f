"""Facts that a small model can be asked for: a sentence, a question, an answer."""

from __future__ import annotations

import random
from typing import NamedTuple


class Fact(NamedTuple):
    """One hidden fact.

    Attributes:
        sentence: as it stands in the document.
        question: what asks for it.
        answer: what a right answer contains.
    """

    sentence: str
    question: str
    answer: str

    def is_in(self, text: str) -> bool:
        """Does a text contain the answer?"""
        return self.answer.lower() in text.lower()


_THINGS = ("fountain", "piano", "teapot", "wheelbarrow", "haystack", "bathtub")
_GIFTS = ("telescope", "violin", "parrot", "bicycle", "kite", "trumpet")
_SHIPS = ("Morning Star", "Silver Heron", "Golden Fox", "Blue Thistle", "Northern Light")
_WORDS = ("marigold", "walnut", "thunder", "lantern", "feather", "pebble")

_KINDS = (
    ("The magic number of the clock tower is {}.", "What is the magic number of the clock tower?", None),
    ("The number of the customs safe is {}.", "What is the number of the customs safe?", None),
    ("The lost ring was found in the {}.", "Where was the lost ring found?", _THINGS),
    ("The mayor's birthday gift was a {}.", "What was the mayor's birthday gift?", _GIFTS),
    ("The new ship is named {}.", "What is the name of the new ship?", _SHIPS),
    ("The secret word of the harbour master is {}.", "What is the secret word of the harbour master?", _WORDS),
)
MOST_FACTS = len(_KINDS)


def draw_facts(draw: random.Random, count: int) -> tuple[Fact, ...]:
    """Choose `count` facts of different kinds, at most `MOST_FACTS`."""
    facts = []
    for sentence, question, answers in draw.sample(_KINDS, count):
        answer = str(draw.randrange(10000, 100000)) if answers is None else draw.choice(answers)
        facts.append(Fact(sentence.format(answer), question, answer))
    return tuple(facts)
