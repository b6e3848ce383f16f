"""Any policy over chunks: what is taken from it, what is refused, and that whole chunks stay."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

import lavakv
from lavakv import PolicyError
from lavakv.policy.apply import policy_scores
from lavakv.policy.chunked import chunked
from lavakv.policy.registry import get_policy
from lavakv.scoring.lava import lava_score
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow
from tests.errors import assert_all_parts

IN_TIERS = ["criticalkv", "defensivekv", "layer-defensivekv", "expected-attention", "compactor"]


def _window(tokens: int = 60) -> ScoringWindow:
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = (torch.randn(2, tokens, 4, generator=generator) for _ in range(3))
    return ScoringWindow(queries[:, None, -4:], [keys], [values], 0.5, tokens_per_head=20)


def test_it_needs_and_divides_what_the_given_one_does() -> None:
    for name in ("lava", "pyramidkv", "cake", "residual", "h2o"):
        given, wrapped = get_policy(name), chunked(get_policy(name), 8)
        assert wrapped.name == f"chunkkv-{name}"
        assert "chunks of 8" in wrapped.summary
        assert wrapped.head_rule == "equal"
        assert wrapped.across_heads
        for field in ("layer_rule", "floor_share", "needs", "tiered"):
            assert getattr(wrapped, field) == getattr(given, field)


def test_the_familys_is_that_of_snapkv() -> None:
    window = _window()
    scores = [policy_scores(policy, window) for policy in (get_policy("chunkkv"), chunked(get_policy("snapkv")))]
    assert scores[0].equal(scores[1])


def test_it_can_be_pickled_where_the_given_one_can() -> None:
    policy, window = chunked(get_policy("lava"), 8), _window()
    again = pickle.loads(pickle.dumps(policy))
    assert again == policy
    assert policy_scores(again, window).equal(policy_scores(policy, window))


@pytest.mark.parametrize("name", ["lava", "snapkv", "knorm", "lagkv"])
def test_whole_chunks_stay(name: str) -> None:
    policy, window = chunked(get_policy(name), 7), _window()
    scores = [policy_scores(policy, window)] * 3
    kept = lavakv.select(policy, scores, budget=4 + 14, window=4)
    for counts, rows in zip(kept.counts.tolist(), kept.positions, strict=True):
        assert counts == [18, 18]
        assert rows[0].equal(rows[1])
        assert sorted(rows[0][:14].tolist()) == [7 * int(c) + i for c in rows[0][:14:7] // 7 for i in range(7)]


@pytest.mark.parametrize("name", IN_TIERS)
def test_a_policy_in_tiers_is_refused_by_name(name: str) -> None:
    with pytest.raises(PolicyError, match=f"got '{name}', which protects some entries") as caught:
        chunked(get_policy(name))
    assert_all_parts(caught.value)


@pytest.mark.parametrize("given", ["lava", None, lava_score])
def test_a_name_or_a_score_is_no_policy(given: object) -> None:
    with pytest.raises(PolicyError, match="policy: expected a Policy") as caught:
        chunked(given)
    assert_all_parts(caught.value, got=repr(given))


def test_policies_in_tiers_say_so() -> None:
    assert [name for name in lavakv.policies() if get_policy(name).tiered] == IN_TIERS


def test_tiers_that_a_policy_did_not_mention_are_refused_by_name() -> None:
    tiers = replace(
        get_policy("snapkv"), name="mine", score=lambda _: TieredScores(torch.zeros(2, 56), torch.ones(2, 56) > 0)
    )
    with pytest.raises(PolicyError, match="got 'mine', which protects some entries"):
        policy_scores(chunked(tiers), _window())


@pytest.mark.parametrize("size", [0, -1, 2.0, "10", None, True])
def test_a_chunk_has_a_whole_number_of_tokens(size: object) -> None:
    with pytest.raises(PolicyError, match="chunk_size: expected a whole number of tokens") as caught:
        chunked(get_policy("lava"), size)
    assert_all_parts(caught.value, got=repr(size))


def test_what_the_given_score_raises_names_the_wrapper() -> None:
    broken = replace(get_policy("lava"), name="mine", score=lambda _: None)
    with pytest.raises(PolicyError, match="policy 'chunkkv-mine'"):
        policy_scores(chunked(broken), _window())
