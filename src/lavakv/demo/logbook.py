"""A harbour's logbook, invented from a seed: plain entries, and hidden facts that a small model can be asked for."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

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
MAX_FACTS = len(_KINDS)

_PEOPLE = ("Abel", "Brita", "Cosmo", "Della", "Egon", "Fenna", "Goran", "Hanne", "Ivo", "Jorun", "Kasper", "Lotte")
_GOODS = ("barley", "rope", "tar", "candles", "salt", "timber", "wool", "nails", "cod", "flour", "cork", "slates")
_PLACES = ("north shed", "east quay", "lower cellar", "customs loft", "boat house", "chapel barn")
_QUESTION = "\n\nAnswer from the logbook, in a few words. {}"


class Fact(NamedTuple):
    """One hidden fact.

    Attributes:
        sentence: in the document.
        question: asks for it.
        answer: text that a right answer contains.
    """

    sentence: str
    question: str
    answer: str

    def is_in(self, text: str) -> bool:
        """Whether a text contains the answer, letter case ignored."""
        return self.answer.lower() in text.lower()


def draw_facts(draw: random.Random, count: int) -> tuple[Fact, ...]:
    """Choose `count` facts of different kinds, at most `MAX_FACTS`."""
    facts = []
    for sentence, question, answers in draw.sample(_KINDS, count):
        answer = draw.choice(answers)
        facts.append(Fact(sentence.format(answer), question, answer))
    return tuple(facts)


class Logbook(NamedTuple):
    """A document and the facts hidden in it.

    Attributes:
        text: the document.
        facts: in the order of the document.
    """

    text: str
    facts: tuple[Fact, ...]

    def ask(self, fact: Fact) -> str:
        """The prompt that asks for one fact."""
        return f"Here is the logbook of a harbour.\n\n{self.text}{_QUESTION.format(fact.question)}"


def make_logbook(num_tokens: int, num_facts: int, seed: int, count_tokens: Callable[[str], int]) -> Logbook:
    """Invent a logbook.

    Args:
        num_tokens: length to aim for, including a question.
        num_facts: number of facts to hide, at depths spread over the document.
        seed: determines the logbook.
        count_tokens: number of tokens of a text.
    """
    random_numbers = random.Random(seed)
    facts = draw_facts(random_numbers, num_facts)
    sample = [_entry(day, random_numbers) for day in range(1, 101)]
    frame = count_tokens(Logbook("", ()).ask(facts[0])) + sum(count_tokens(fact.sentence) for fact in facts)
    num_days = max(round((num_tokens - frame) / (count_tokens("\n".join(sample)) / len(sample))), 2 * num_facts)
    entries = [_entry(day, random_numbers) for day in range(1, num_days + 1)]
    for index, fact in enumerate(facts):
        depth = (index + random_numbers.uniform(0.25, 0.75)) / num_facts
        day = int(depth * num_days)
        entries[day] += f" {fact.sentence}"
    return Logbook("\n".join(entries), facts)


def _entry(day: int, draw: random.Random) -> str:
    who, other, what, where = draw.choice(_PEOPLE), draw.choice(_PEOPLE), draw.choice(_GOODS), draw.choice(_PLACES)
    wind, sea = draw.choice(("north", "south", "east", "west")), draw.choice(("calm", "rough", "choppy"))
    forms = (
        f"{who} brought {draw.randrange(2, 90)} crates of {what} to the {where}.",
        f"Wind from the {wind}, sea {sea}; {who} kept the watch.",
        f"{who} paid {draw.randrange(3, 60)} crowns for {what} and left before noon.",
        f"{who} mended the roof of the {where} with {other}.",
    )
    return f"Day {day}. {draw.choice(forms)}"
