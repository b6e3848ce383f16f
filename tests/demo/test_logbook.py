"""The made-up document."""

from __future__ import annotations

import random

import pytest

from lavakv.demo.logbook import MAX_FACTS, draw_facts, make_logbook


def _count(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize("num_tokens", [400, 1500, 4000])
def test_about_as_long_as_asked_for(num_tokens) -> None:
    logbook = make_logbook(num_tokens, 3, seed=1, count_tokens=_count)
    assert _count(logbook.ask(logbook.facts[0])) == pytest.approx(num_tokens, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_every_fact_stands_in_it_once_and_in_order(seed) -> None:
    logbook = make_logbook(2000, MAX_FACTS, seed, _count)
    places = [logbook.text.index(fact.sentence) for fact in logbook.facts]
    assert places == sorted(places)
    for fact in logbook.facts:
        assert logbook.text.count(fact.answer) == 1
        assert not fact.is_in(logbook.text.replace(fact.sentence, ""))
        assert logbook.ask(fact).endswith(fact.question)


def test_the_seed_decides() -> None:
    first, again, other = (make_logbook(1000, 3, seed, _count) for seed in (1, 1, 2))
    assert first == again
    assert first.text != other.text
    assert {make_logbook(1000, 3, seed, _count).facts for seed in range(8)}.__len__() == 8


def test_facts_are_of_different_kinds() -> None:
    facts = draw_facts(random.Random(0), MAX_FACTS)
    assert len({fact.question for fact in facts}) == MAX_FACTS


def test_answers_are_found_whatever_their_case() -> None:
    fact = draw_facts(random.Random(0), 1)[0]
    assert fact.is_in(f"It is {fact.answer.upper()}.")
    assert not fact.is_in("I do not know.")
