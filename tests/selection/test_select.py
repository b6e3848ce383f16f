from __future__ import annotations

import re

import pytest
import torch

import lavakv
from lavakv import BudgetError, InputError, PolicyError
from lavakv.policy.numbers import Readback
from lavakv.policy.rules import Policy
from lavakv.scoring.prompt import ReplayMaxima
from tests.errors import assert_all_parts
from tests.scoring.cases import made_up_rotation

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


BAD_CAPS = {
    "one layer too few": [torch.tensor([5, 5])],
    "one head too few": [torch.tensor([5]), torch.tensor([6, 6])],
    "more than there are places": [torch.tensor([5, 6]), torch.tensor([6, 6])],
    "below zero": [torch.tensor([5, -1]), torch.tensor([6, 6])],
    "no whole numbers": [torch.tensor([5.0, 5.0]), torch.tensor([6, 6])],
    "marks": [torch.tensor([True, True]), torch.tensor([6, 6])],
    "no tensors": [[5, 5], [6, 6]],
}


@pytest.mark.parametrize("caps", BAD_CAPS.values(), ids=BAD_CAPS.keys())
def test_caps_that_do_not_fit_the_scores_are_refused(caps: list[torch.Tensor]) -> None:
    with pytest.raises(InputError, match=r"^caps: expected .*: \(2,\) up to 5, \(2,\) up to 6") as caught:
        lavakv.select("lava", [torch.rand(2, 5), torch.rand(2, 6)], 4, 2, caps=caps)
    assert_all_parts(caught.value)


def test_layers_may_be_of_unequal_length_where_caps_say_how_many_candidates_there_are() -> None:
    layers, caps = [torch.rand(2, 5), torch.rand(3, 6)], [torch.tensor([5, 0]), torch.tensor([6, 1, 2])]
    selection = lavakv.select("snapkv", layers, 3, 2, caps=caps)
    assert selection.counts.tolist() == [[4, 2, 0], [3, 3, 3]]
    assert [layer.shape for layer in selection.flat_positions] == [(6,), (9,)]
    assert selection.positions[0, 1].tolist() == [5, 6, -1, -1]
    whole = lavakv.select("snapkv", layers, 9, 2, caps=caps)
    assert whole.positions[1].tolist() == [[*range(8)], [0, 6, 7, *[-1] * 5], [0, 1, 6, 7, *[-1] * 4]]


@pytest.mark.parametrize("policy", ["lava", "layer-defensivekv", "snapkv"])
def test_each_layer_is_read_back_once(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []
    fetch = Readback._fetch
    monkeypatch.setattr(
        Readback, "_fetch", staticmethod(lambda tensor: fetched.append(tensor.numel()) or fetch(tensor))
    )
    lavakv.select(policy, [torch.rand(2, 20)] * 5, budget=12, window=4)
    assert len(fetched) == 5


@pytest.mark.parametrize("budget", [0, 3, 4, True, 2.5])
def test_a_budget_within_the_window_is_refused(budget: object) -> None:
    with pytest.raises(BudgetError, match=r"^budget: "):
        lavakv.select("lava", [torch.rand(2, 20)], budget=budget, window=4)  # type: ignore[arg-type]


OUTPUT_WEIGHT, PROMPT_QUERIES = torch.randn(4, 6, 5), torch.randn(4, 10, 8)


@pytest.mark.parametrize("shape", [(4, 6), (3, 6, 5), (2, 6, 5), (4, 7, 5), (24, 5), (1, 4, 6, 5)])
def test_an_output_projection_that_does_not_fit_the_values_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"output_weight: expected shape \(4, 6, hidden\)") as caught:
        lavakv.scores("criticalkv", QUERIES, KEYS, VALUES, tokens_per_head=5, output_weight=torch.ones(shape))
    assert_all_parts(caught.value, got=str(shape))


@pytest.mark.parametrize("shape", [(4, 3, 8), (2, 10, 8), (4, 9, 8), (4, 10, 7), (10, 8)])
def test_queries_of_less_than_the_whole_prompt_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"prompt_queries: expected all queries of the prompt, shape") as caught:
        lavakv.scores("h2o", QUERIES, KEYS, VALUES, prompt_queries=torch.ones(shape))
    assert_all_parts(caught.value, got=str(shape))


BAD_NORMS = {
    "one too few": torch.ones(2),
    "one a token": torch.ones(10),
    "one a head": torch.ones(4, 3),
    "one for all": torch.tensor(1.0),
    "only zeros": torch.zeros(3),
    "a negative one": torch.tensor([1.0, 1.0, -1.0]),
    "NaN": torch.tensor([torch.nan, 1.0, 1.0]),
    "infinity": torch.tensor([1.0, torch.inf, 1.0]),
}


@pytest.mark.parametrize("norms", BAD_NORMS.values(), ids=BAD_NORMS.keys())
def test_norms_that_are_not_one_number_a_row_are_refused(norms: torch.Tensor) -> None:
    """Whether or not the policy reads them."""
    for policy in ("residual", "lava"):
        with pytest.raises(
            InputError, match="residual_norms: expected a norm for each of the window's 3 queries"
        ) as caught:
            lavakv.scores(policy, QUERIES, KEYS, VALUES, output_weight=OUTPUT_WEIGHT, residual_norms=norms)
        assert_all_parts(caught.value, got=f"shape {tuple(norms.shape)}")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_norms_of_any_dtype_are_widened_before_they_are_squared(dtype: torch.dtype) -> None:
    norms = torch.tensor([3.0, 300.0, 30.0])  # 300 squared is more than float16 holds
    given = {"output_weight": OUTPUT_WEIGHT}
    plain = lavakv.scores("residual", QUERIES, KEYS, VALUES, residual_norms=norms, **given)
    assert torch.equal(lavakv.scores("residual", QUERIES, KEYS, VALUES, residual_norms=norms.to(dtype), **given), plain)


@pytest.mark.parametrize("budget", [0, 2, 3, -1])
def test_a_score_for_a_budget_within_the_window_is_refused(budget: int) -> None:
    for policy in ("criticalkv", "defensivekv"):
        with pytest.raises(BudgetError, match=r"^budget: "):
            lavakv.scores(policy, QUERIES, KEYS, VALUES, tokens_per_head=budget, output_weight=OUTPUT_WEIGHT)


@pytest.mark.parametrize("weights", [[], [1.0], [1.0] * 3, [1.0, -0.5], [1.0, float("nan")], [float("inf"), 1.0]])
def test_layer_weights_that_cannot_be_compared_are_refused(weights: list[float]) -> None:
    with pytest.raises(InputError, match="layer_weights: expected 2 finite numbers") as caught:
        lavakv.select("cake", [torch.rand(2, 20)] * 2, budget=12, window=4, layer_weights=weights)
    assert_all_parts(caught.value, got=repr(weights))


def test_a_rule_that_is_a_function_needs_its_weights_given() -> None:
    layers = [torch.rand(2, 20), torch.rand(2, 20)]
    with pytest.raises(PolicyError, match=r"'cake': expected layer_weights, which its layer rule makes") as caught:
        lavakv.select("cake", layers, budget=12, window=4)
    assert_all_parts(caught.value, got="none")
    counts = lavakv.select("cake", layers, budget=12, window=4, layer_weights=[3.0, 1.0]).counts
    assert counts.tolist() == [[16, 16], [8, 8]]
    assert lavakv.select("cake", layers, budget=24, window=4).counts.sum() == 96  # nothing goes, nothing to weigh


@pytest.mark.parametrize("name", lavakv.policies())
def test_scores_that_are_no_numbers_are_refused_by_every_rule(name: str) -> None:
    layers = [torch.rand(2, 20), torch.rand(2, 20)]
    layers[1][0, 3] = torch.nan
    with pytest.raises(PolicyError, match=f"policy '{re.escape(name)}' at layer 1: expected finite scores"):
        lavakv.select(name, layers, budget=12, window=4, layer_weights=[1.0, 1.0])


@pytest.mark.parametrize("policy", lavakv.policies())
def test_a_model_s_own_weights_may_be_passed(policy: str) -> None:
    """They require gradients, and so do queries of a forward outside `no_grad`; long enough for rows far behind."""
    torch.manual_seed(0)
    queries, keys, values = torch.randn(4, 180, 8), torch.randn(2, 180, 8), torch.randn(2, 180, 8)
    weight = torch.nn.Parameter(torch.randn(4, 8, 12))
    more = {"tokens_per_head": 20, "residual_norms": torch.ones(8)}
    more["rotation"] = made_up_rotation(180, 8, torch.default_generator)
    more["replay"] = ReplayMaxima(*torch.rand(2, 2, 2, 180))
    plain, learning = (
        lavakv.scores(policy, q[:, -8:], keys, values, prompt_queries=q, output_weight=w, **more)
        for q, w in ((queries, weight.detach()), (queries.clone().requires_grad_(), weight))
    )
    for one, other in zip(plain, learning, strict=True) if isinstance(plain, tuple) else [(plain, learning)]:
        torch.testing.assert_close(one, other, rtol=0, atol=0)
