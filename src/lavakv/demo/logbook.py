"""A harbour's logbook, invented from a seed: plain entries, and facts to be asked for."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from lavakv.demo.facts import Fact, draw_facts

_PEOPLE = ("Abel", "Brita", "Cosmo", "Della", "Egon", "Fenna", "Goran", "Hanne", "Ivo", "Jorun", "Kasper", "Lotte")
_GOODS = ("barley", "rope", "tar", "candles", "salt", "timber", "wool", "nails", "cod", "flour", "cork", "slates")
_PLACES = ("north shed", "east quay", "lower cellar", "customs loft", "boat house", "chapel barn")
_QUESTION = "\n\nAnswer from the logbook, in a few words. {}"


class Logbook(NamedTuple):
    """A document and what is hidden in it.

    Attributes:
        text: the document.
        facts: what can be asked, in the order of the document.
    """

    text: str
    facts: tuple[Fact, ...]

    def ask(self, fact: Fact) -> str:
        """The prompt that asks for one fact."""
        return f"Here is the logbook of a harbour.\n\n{self.text}{_QUESTION.format(fact.question)}"


def make_logbook(num_tokens: int, num_facts: int, seed: int, count_tokens: Callable[[str], int]) -> Logbook:
    """Invent a logbook.

    Args:
        num_tokens: wanted length, with any question about it.
        num_facts: facts to hide, at depths spread over the document.
        seed: another seed gives another logbook.
        count_tokens: length of a text in the model's tokens.
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
