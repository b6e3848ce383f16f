from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import lavakv
from lavakv import InputError, PolicyError
from lavakv.policy.apply import policy_scores
from lavakv.policy.registry import get_policy
from lavakv.scoring.prompt import PromptRows, ReplayMaxima
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow
from lavakv.selection.ranking import rank
from lavakv.selection.tensor_parallel import (
    candidates,
    head_counts,
    layer_max_entries,
    merge_candidates,
    merged_weight,
    partial_statistics,
    require_separate_heads,
)
from tests.errors import assert_all_parts
from tests.scoring.cases import made_up_rotation

LAVA, CAKE = get_policy("lava"), get_policy("cake")
HEADS, TOKENS, ROWS = 4, 200, 8


def _window(heads: slice) -> ScoringWindow:
    """Long enough for rows far behind; the first head holds the largest values."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(HEADS, 2, TOKENS, 8, generator=generator)[heads]
    keys, values = torch.randn(2, HEADS, TOKENS, 8, generator=generator)[:, heads]
    return ScoringWindow(
        queries[:, :, -ROWS:],
        [keys],
        [values],
        scaling=0.4,
        tokens_per_head=40,
        output_weight=torch.randn(HEADS, 2, 8, 12, generator=generator)[heads],
        prompt=PromptRows(queries),
        residual_norms=torch.rand(ROWS, generator=generator) + 1,
        rotation=made_up_rotation(queries.shape[2], queries.shape[3], generator),
        replay=ReplayMaxima(*torch.rand(2, HEADS, 2, TOKENS, generator=generator)[:, heads]),
    )


@pytest.mark.parametrize("name", lavakv.policies())
def test_a_policy_says_whether_its_heads_can_be_scored_apart(name: str) -> None:
    """Those that say so give each rank the scores that a single rank would, the others do not."""
    policy = get_policy(name)
    whole, *parts = (
        _parts(policy_scores(policy, _window(heads))) for heads in (slice(None), slice(0, 1), slice(1, HEADS))
    )
    apart = [torch.cat(pair) for pair in zip(*parts, strict=True)]
    same = all(torch.allclose(one, other, rtol=1e-4) for one, other in zip(apart, whole, strict=True))
    assert same == (not policy.across_heads)
    if not policy.across_heads:
        require_separate_heads(policy)
    else:
        with pytest.raises(PolicyError, match=f"policy '{name}': expected a score of each head by itself") as caught:
            require_separate_heads(policy)
        assert_all_parts(caught.value, got=policy.across_heads)


def _parts(score: torch.Tensor | TieredScores) -> list[torch.Tensor]:
    return [score.values, score.outright] if isinstance(score, TieredScores) else [score]


def test_only_these_policies_look_across_heads() -> None:
    assert [name for name in lavakv.policies() if get_policy(name).across_heads] == [
        "chunkkv",
        "laprox",
        "reach",
        "reach-question",
        "tova",
        "compactor",
        "random",
    ]


@pytest.mark.parametrize("call", [
    lambda policy: partial_statistics(policy, torch.rand(2, 5)),
    lambda policy: merged_weight(policy, torch.rand(2, 1).double(), 5),
], ids=["partial", "merged"])  # fmt: skip
def test_a_rule_that_is_a_function_has_no_sums(call) -> None:
    policy = replace(CAKE, name="mine", layer_rule=lambda _: torch.ones(()))
    with pytest.raises(PolicyError, match="policy 'mine': expected a layer weight that follows from sums") as caught:
        call(policy)
    assert_all_parts(caught.value)


def test_scores_that_cannot_be_used_are_named_after_merging() -> None:
    statistics = partial_statistics(LAVA, torch.tensor([[1.0, -1.0], [1.0, 2.0]]))
    with pytest.raises(PolicyError, match=r"'lava' at layer 3: expected scores of zero or more"):
        merged_weight(LAVA, statistics, 2, layer=3)
    statistics = partial_statistics(get_policy("snapkv"), torch.tensor([[1.0, torch.inf], [1.0, 2.0]]))
    with pytest.raises(PolicyError, match=r"'snapkv' at layer 0: expected finite scores"):
        merged_weight(get_policy("snapkv"), statistics, 2)


@pytest.mark.parametrize("shape", [(0, 2), (3, 1), (3,), (1, 3, 2)])
def test_statistics_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        InputError, match=r"statistics: expected a row a head of the layer, shape \[heads, 2\]"
    ) as caught:
        merged_weight(LAVA, torch.ones(shape, dtype=torch.float64), 5)
    assert_all_parts(caught.value, got=str(shape))


def test_caps_of_one_rank_only_are_refused() -> None:
    with pytest.raises(InputError, match=r"caps: expected one number a head of the layer, shape \(3,\)") as caught:
        merged_weight(LAVA, torch.ones(3, 2, dtype=torch.float64), 5, torch.tensor([5, 5]))
    assert_all_parts(caught.value, got="(2,)")


@pytest.mark.parametrize("heads", [[], [0], [1, 0], [1, 1], [-1, 0], [0, 1, 2]])
def test_head_numbers_that_do_not_fit_are_refused(heads: list[int]) -> None:
    with pytest.raises(InputError, match="heads: expected the numbers of the 2 heads that were ranked") as caught:
        candidates(rank(torch.rand(2, 5)), heads, 9)
    assert_all_parts(caught.value, got=repr(heads))


def test_parts_that_do_not_fit_together_are_refused() -> None:
    plain, tiered = (candidates(rank(torch.rand(2, 5), least), [0, 1], 9) for least in (0, 1))
    for parts, got in (([], "no parts"), ([plain, tiered], "none, tiers")):
        with pytest.raises(InputError, match="parts: expected candidates of one or more ranks") as caught:
            merge_candidates(parts)
        assert_all_parts(caught.value, got=got)
    with pytest.raises(InputError, match="parts: expected each head on one rank") as caught:
        merge_candidates([plain, candidates(rank(torch.rand(2, 5)), [1, 2], 9)])
    assert_all_parts(caught.value, got="heads [1] on several")


def test_layers_weights_and_caps_must_be_as_many() -> None:
    merged = candidates(rank(torch.rand(2, 5)), [0, 1], 4)
    with pytest.raises(InputError, match="layers, weights, caps: expected one of each a layer") as caught:
        head_counts(LAVA, [merged, merged], [1.0], [torch.tensor([5, 5])] * 2, 2)
    assert_all_parts(caught.value, got="2 and 1 and 2")
    with pytest.raises(InputError, match="layers, weights, caps: expected one of each a layer") as caught:
        layer_max_entries(LAVA, [], [], 2)
    assert_all_parts(caught.value, got="0 and 0")


def test_few_candidates_of_a_layer_can_matter() -> None:
    """No more than its share and what rounding may add; none at all where heads do not compete."""
    caps = [torch.full((4,), 100)] * 3
    assert layer_max_entries(LAVA, [1.0, 2.0, 3.0], caps, 30) == [60 + 12, 120 + 12, 180 + 12]
    assert layer_max_entries(get_policy("snapkv"), [4.0] * 3, caps, 30) == [0, 0, 0]
    assert layer_max_entries(get_policy("residual"), [4.0] * 3, caps, 30) == [360] * 3
