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
_ISLANDS = ("Lindholm", "Barrowmere", "Saltness", "Greywater", "Tamsund", "Ravenholt")

_KINDS = (
    ("The name of the island is {}.", "What is the name of the island?", _ISLANDS),
    ("The new ship is named {}.", "What is the name of the new ship?", _SHIPS),
    ("The stolen bell was hidden in a {}.", "In what was the stolen bell hidden?", _THINGS),
    ("The mayor's birthday gift was a {}.", "What was the mayor's birthday gift?", _GIFTS),
)
MOST_FACTS = len(_KINDS)


def draw_facts(draw: random.Random, count: int) -> tuple[Fact, ...]:
    """Choose `count` facts of different kinds, at most `MOST_FACTS`."""
    facts = []
    for sentence, question, answers in draw.sample(_KINDS, count):
        answer = draw.choice(answers)
        facts.append(Fact(sentence.format(answer), question, answer))
    return tuple(facts)
