from __future__ import annotations

from dataclasses import replace

import pytest

from lavakv import PolicyError
from lavakv.policy.registry import get_policy
from lavakv.policy.rules import Policy
from lavakv.scoring.lava import lava_score
from tests.errors import assert_all_parts

BAD_CHANGES = [
    {"head_rule": "best"},
    {"head_rule": lava_score},
    {"layer_rule": "pooled"},
    {"layer_rule": None},
    {"floor_share": -0.1},
    {"floor_share": 1.5},
    {"floor_share": float("nan")},
]


@pytest.mark.parametrize("change", BAD_CHANGES)
def test_a_policy_with_an_unknown_rule_cannot_be_made(change: dict) -> None:
    with pytest.raises(PolicyError, match=f"{next(iter(change))} of policy 'lava'") as caught:
        replace(get_policy("lava"), **change)
    assert_all_parts(caught.value, got=repr(next(iter(change.values()))))


@pytest.mark.parametrize("needs", [("tokens_per_head", "values"), ("",), ("attention",)])
def test_a_policy_cannot_need_what_no_window_has(needs: tuple[str, ...]) -> None:
    with pytest.raises(PolicyError, match="needs of policy 'lava': expected tokens_per_head or") as caught:
        replace(get_policy("lava"), needs=needs)
    assert_all_parts(caught.value, got=repr(needs[-1]))


@pytest.mark.parametrize("share", [0.0, 1.0, 0, 1])
def test_the_ends_of_the_floor_share_are_allowed(share: float) -> None:
    assert replace(get_policy("lava"), floor_share=share).floor_share == share


def test_only_a_pool_guarantees_entries() -> None:
    pool = Policy("mine", "test", lava_score, layer_rule="pool", floor_share=0.1)
    assert [pool.min_entries_per_head(budget, 32) for budget in (33, 41, 42, 51, 52, 132)] == [0, 0, 1, 1, 2, 10]
    assert get_policy("lava").min_entries_per_head(256, 32) == 0
