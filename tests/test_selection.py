from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import lavakv
from lavakv import BudgetError, InputError, PolicyError
from lavakv.policy import Policy, get_policy
from lavakv.ranking import rank
from lavakv.selection import layer_weight
from tests.errors import assert_all_parts

QUERIES, KEYS, VALUES = torch.randn(4, 3, 8), torch.randn(2, 10, 8), torch.randn(2, 10, 6)


def _replaced(**changes: object) -> dict[str, object]:
    return {"q_window": QUERIES, "keys": KEYS, "values": VALUES, **changes}


BAD_TENSORS = {
    "a batch": _replaced(q_window=QUERIES[None]),
    "no chunks": _replaced(keys=[], values=[]),
    "no heads": _replaced(keys=KEYS[:0], values=VALUES[:0]),
    "no queries": _replaced(q_window=QUERIES[:, :0]),
    "no tokens": _replaced(keys=KEYS[:, :0], values=VALUES[:, :0]),
    "more queries than tokens": _replaced(keys=KEYS[:, :2], values=VALUES[:, :2]),
    "query heads no multiple": _replaced(q_window=QUERIES[:3]),
    "another head size": _replaced(q_window=QUERIES[..., :7]),
    "fewer values": _replaced(values=VALUES[:, :9]),
    "other cuts": _replaced(keys=[KEYS, KEYS[:, :2]], values=[VALUES[:, :2], VALUES]),
    "a chunk of fewer heads": _replaced(keys=[KEYS, KEYS[:1]], values=[VALUES, VALUES[:1]]),
    "a chunk of another value size": _replaced(keys=[KEYS, KEYS], values=[VALUES, VALUES[..., :5]]),
    "too few sinks": _replaced(sinks=torch.zeros(2)),
    "a mask that would broadcast": _replaced(visible=torch.ones(1, 10, dtype=torch.bool)),
    "a mask too wide": _replaced(visible=torch.ones(3, 12, dtype=torch.bool)),
    "an additive mask": _replaced(visible=torch.zeros(3, 10)),
}


@pytest.mark.parametrize("arguments", BAD_TENSORS.values(), ids=BAD_TENSORS.keys())
def test_tensors_that_do_not_belong_together_are_refused(arguments: dict) -> None:
    with pytest.raises(InputError) as caught:
        lavakv.scores("lava", **arguments)
    assert_all_parts(caught.value)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_no_numbers_are_refused_with_their_layer(bad: float) -> None:
    layers = [torch.rand(2, 20), torch.rand(2, 20)]
    layers[1][1, 3] = bad
    with pytest.raises(PolicyError, match=r"'lava' at layer 1: expected finite scores, got NaN or infinity") as caught:
        lavakv.select("lava", layers, budget=12, window=4)
    assert_all_parts(caught.value)


def test_negative_scores_have_no_entropy() -> None:
    layers = [torch.rand(2, 20) - 0.5]
    with pytest.raises(PolicyError, match="scores of zero or more"):
        lavakv.select("lava", layers, budget=12, window=4)
    assert lavakv.select("lava-uniform-layers", layers, budget=12, window=4).counts.sum() == 24


def test_a_policy_whose_scores_have_another_shape_is_refused() -> None:
    policy = Policy("mine", "test", lambda window: window.value_norms)
    with pytest.raises(PolicyError, match=r"'mine' at layer 3: expected scores of shape \(2, 7\), got \(2, 10\)"):
        lavakv.scores(policy, QUERIES, KEYS, VALUES, layer=3)


@pytest.mark.parametrize("layers", [[], [torch.rand(2, 5), torch.rand(2, 6)]])
def test_layers_of_unequal_length_are_refused(layers: list[torch.Tensor]) -> None:
    with pytest.raises(InputError, match=r"^scores: "):
        lavakv.select("lava", layers)


@pytest.mark.parametrize("budget", [0, 3, 4, True, 2.5])
def test_a_budget_within_the_window_is_refused(budget: object) -> None:
    with pytest.raises(BudgetError, match=r"^budget: "):
        lavakv.select("lava", [torch.rand(2, 20)], budget=budget, window=4)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["", "LAVA", None, 3, ["lava"]])
def test_an_unknown_policy_is_refused(policy: object) -> None:
    with pytest.raises(PolicyError, match=r"^policy: expected a Policy or one of lava, ") as caught:
        get_policy(policy)  # type: ignore[arg-type]
    assert_all_parts(caught.value, got=repr(policy))


@pytest.mark.parametrize(
    "change", [{"head_rule": "best"}, {"layer_rule": "pooled"}, {"floor_share": -0.1}, {"floor_share": float("nan")}]
)
def test_a_policy_with_an_unknown_rule_cannot_be_made(change: dict) -> None:
    with pytest.raises(PolicyError, match=f"{next(iter(change))} of policy 'lava'") as caught:
        replace(get_policy("lava"), **change)
    assert_all_parts(caught.value, got=repr(next(iter(change.values()))))


def test_policies_are_listed_and_cannot_be_changed() -> None:
    assert list(lavakv.policies()) == ["lava", "lava-uniform-layers", "lava-uniform-heads"]
    with pytest.raises(TypeError):
        lavakv.policies()["mine"] = "a line"  # type: ignore[index]


def test_ties_rank_lower_heads_and_earlier_positions_first() -> None:
    ranking = rank(torch.tensor([[1.0, 2.0, 1.0], [2.0, 2.0, 1.0]]))
    assert ranking.positions.tolist() == [[1, 0, 2], [0, 1, 2]]
    assert ranking.pooled_heads.tolist() == [0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("shape", [(1, 0), (3, 0), (1, 1)])
def test_ranking_the_smallest_layers(shape: tuple[int, int]) -> None:
    ranking = rank(torch.zeros(shape))
    assert ranking.positions.shape == shape
    assert ranking.pooled_heads.tolist() == [0] * (shape[0] * shape[1])


def test_layer_weight_follows_the_layer_rule() -> None:
    scores = torch.ones(3, 5)
    assert layer_weight(get_policy("lava"), scores) == pytest.approx(1.0)
    assert layer_weight(get_policy("lava-uniform-layers"), scores) == 3.0
