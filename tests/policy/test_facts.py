"""What a policy says of itself beside its rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

import lavakv
from lavakv import PolicyError
from lavakv.policy.builtin import FAMILY
from lavakv.policy.chunked import chunked
from lavakv.policy.facts import FACTS, with_facts
from lavakv.policy.registry import get_policy
from lavakv.policy.rules import Policy
from lavakv.scoring.lava import lava_score
from tests.errors import assert_all_parts

MINE = Policy("mine", "test", lava_score)


@pytest.mark.parametrize("name", lavakv.policies())
def test_every_built_in_policy_says_where_it_looks_and_what_it_costs(name: str) -> None:
    policy = FAMILY[name]
    assert (policy.scored_by, policy.relative_cost) == FACTS[name]
    assert not policy.trained
    assert ("replay" in policy.needs) == (policy.scored_by == "replay")
    assert "prompt" not in policy.needs or policy.scored_by == "all queries"
    assert policy.sees_question == (policy.scored_by in ("window", "all queries"))


def test_a_plugin_need_not_say_anything() -> None:
    assert (MINE.scored_by, MINE.sees_question, MINE.relative_cost, MINE.trained) == (None, None, None, False)
    assert with_facts([MINE]) == {"mine": MINE}
    assert replace(MINE, scored_by="entries").sees_question is False


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("scored_by", "tokens"),
        ("scored_by", ""),
        ("relative_cost", -0.1),
        ("relative_cost", float("nan")),
        ("relative_cost", "2 %"),
    ],
)
def test_bad_facts_are_named(argument: str, value: object) -> None:
    with pytest.raises(PolicyError, match=f"{argument} of policy 'mine': expected ") as caught:
        replace(MINE, **{argument: value})  # type: ignore[arg-type]
    assert_all_parts(caught.value, got=repr(value))


def test_a_wrapped_policy_looks_where_the_given_one_does() -> None:
    given = replace(get_policy("keydiff"), relative_cost=0.1)
    assert chunked(given).scored_by == "entries"
    assert chunked(given).relative_cost is None
