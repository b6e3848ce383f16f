from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

import lavakv
from lavakv import InputError, PolicyError
from lavakv.policy.apply import LayerWeight, policy_scores
from lavakv.policy.numbers import score_weight
from lavakv.policy.registry import get_policy
from lavakv.policy.rules import Need, Policy
from lavakv.scoring.prompt import PromptRows, ReplayMaxima
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow
from tests.errors import assert_all_parts
from tests.scoring.cases import made_up_rotation

QUERIES, KEYS, VALUES = torch.randn(2, 2, 10, 8), torch.randn(2, 10, 8), torch.randn(2, 10, 6)
WINDOW = ScoringWindow(
    QUERIES[:, :, 7:],
    [KEYS],
    [VALUES],
    0.3,
    layer=5,
    tokens_per_head=6,
    output_weight=torch.randn(2, 2, 6, 4),
    prompt=PromptRows(QUERIES),
    residual_norms=torch.rand(3) + 1,
    rotation=made_up_rotation(10, 8, torch.Generator().manual_seed(0)),
    replay=ReplayMaxima(torch.rand(2, 2, 10), torch.rand(2, 2, 10)),
)
GOOD = torch.rand(2, 7)
NEEDS = [(name, need) for name in lavakv.policies() for need in get_policy(name).needs]


def test_some_of_the_family_need_more_than_a_window() -> None:
    two_stages = [(name, need) for name in ("criticalkv", "defensivekv", "layer-defensivekv") for need in
                  ("tokens_per_head", "output_weight")]  # fmt: skip
    residual, far, maximum = (
        [(name, need) for need in ("output_weight", "residual_norms")]
        for name in ("residual", "residual-far", "residual-max")
    )
    plus = [("kvzip+", need) for need in ("replay", "output_weight", "residual_norms")]
    replays = [("kvzip", "replay"), *plus]
    reach = ("output_weight", "residual_norms", "prompt", "rotation")
    before = [("expected-attention", need) for need in ("prompt", "rotation")]
    before += [("compactor", need) for need in ("tokens_per_head", "prompt", "rotation")]
    assert [
        *two_stages,
        ("laprox", "output_weight"),
        *residual,
        *far,
        ("residual-far", "prompt"),
        *maximum,
        *[(name, need) for name in ("reach", "reach-question") for need in reach],
        *replays,
        ("h2o", "prompt"),
        *before,
    ] == NEEDS


@pytest.mark.parametrize(("name", "need"), NEEDS)
def test_what_a_policy_needs_and_lacks_is_named(name: str, need: str) -> None:
    with pytest.raises(
        PolicyError, match=f"policy '{re.escape(name)}' at layer 5: expected (the|a) .*, got none"
    ) as caught:
        policy_scores(get_policy(name), replace(WINDOW, **{need: None}))
    assert_all_parts(caught.value, got="none")


@pytest.mark.parametrize("name", ["residual", "residual-far", "residual-max", "reach", "reach-question"])
def test_a_window_whose_hidden_states_are_all_zero_is_named(name: str) -> None:
    """With a zero row beside others all is finite; see `tests/scoring/test_residual.py`."""
    policy = get_policy(name)
    some, none = (replace(WINDOW, residual_norms=norms) for norms in (torch.tensor([0.0, 0, 2]), torch.zeros(3)))
    assert LayerWeight(policy, some, policy_scores(policy, some)).value() > 0
    with pytest.raises(PolicyError, match=rf"'{name}' at layer 5: expected a hidden state .* not zero") as caught:
        LayerWeight(policy, none, policy_scores(policy, none))
    assert_all_parts(caught.value, got="only zeros")
    lava = replace(WINDOW, residual_norms=torch.zeros(3))
    with pytest.raises(PolicyError, match="'lava' at layer 5: expected finite scores, got NaN"):
        LayerWeight(get_policy("lava"), lava, GOOD * torch.nan)


@pytest.mark.parametrize("name", lavakv.policies())
def test_a_policy_asks_for_all_that_it_reads(name: str) -> None:
    policy, absent = get_policy(name), dict.fromkeys(get_args(Need))
    given = {need: getattr(WINDOW, need) for need in policy.needs}
    policy_scores(policy, replace(WINDOW, **{**absent, **given}))


@pytest.mark.parametrize("tiered", [False, True])
@pytest.mark.parametrize("shape", [(2, 10), (1, 7), (2, 6), (7,), (2, 1), (1, 2, 7)])
def test_scores_of_another_shape_are_refused(shape: tuple[int, ...], tiered: bool) -> None:
    wrong = torch.ones(shape)
    parts = [TieredScores(wrong, GOOD > 0), TieredScores(GOOD, wrong > 0)] if tiered else [wrong]
    for part in parts:
        policy = Policy("mine", "test", lambda _, part=part: part)
        with pytest.raises(PolicyError, match=r"'mine' at layer 5: expected scores of shape \(2, 7\)") as caught:
            policy_scores(policy, WINDOW)
        assert_all_parts(caught.value, got=str(shape))


def raising(error: Exception) -> Policy:
    def score(_: ScoringWindow) -> Tensor:
        raise error

    return Policy("mine", "test", score)


def test_a_score_that_fails_is_named_with_its_layer() -> None:
    cause = AttributeError("no attribute 'atention'")
    with pytest.raises(PolicyError, match="'mine' at layer 5: expected a score that can be computed") as caught:
        policy_scores(raising(cause), WINDOW)
    assert caught.value.__cause__ is cause
    assert_all_parts(caught.value, got="AttributeError: no attribute 'atention'")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("full"),
        torch.OutOfMemoryError("full"),
        torch.AcceleratorError("gone"),
        InputError("a", expected="b", got="c", fix="d."),
    ],
)
def test_errors_that_are_not_the_score_s_fault_pass_through(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        policy_scores(raising(error), WINDOW)
    assert caught.value is error


@pytest.mark.parametrize("bad", [None, 0.5, [[1.0] * 7] * 2, (GOOD, GOOD > 0), GOOD.numpy()])
def test_scores_that_are_no_tensor_are_refused(bad: object) -> None:
    with pytest.raises(PolicyError, match="'mine' at layer 5: expected scores as a tensor") as caught:
        policy_scores(Policy("mine", "test", lambda _: bad), WINDOW)  # type: ignore[arg-type, return-value]
    assert_all_parts(caught.value, got=type(bad).__name__)
    tiered = TieredScores(GOOD, bad)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="expected scores as a tensor"):
        policy_scores(Policy("mine", "test", lambda _: tiered), WINDOW)


def test_scores_of_any_dtype_become_float32() -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.int64):
        score = policy_scores(Policy("mine", "test", lambda _, dtype=dtype: GOOD.to(dtype)), WINDOW)
        assert isinstance(score, Tensor)
        assert score.dtype == torch.float32
    tiered = policy_scores(Policy("mine", "test", lambda _: TieredScores(GOOD.double(), GOOD > 0.5)), WINDOW)
    assert isinstance(tiered, TieredScores)
    assert tiered.values.dtype == torch.float32
    assert torch.equal(tiered.protected, GOOD > 0.5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("rule", ["entropy", "equal", "pyramid", "pool", lambda _: torch.ones(())])
def test_scores_that_are_no_numbers_are_refused_by_every_rule(bad: float, rule: object) -> None:
    policy, scores = Policy("mine", "test", lambda _: GOOD, layer_rule=rule), GOOD.clone()  # type: ignore[arg-type]
    scores[1, 2] = bad
    with pytest.raises(PolicyError, match="'mine' at layer 5: expected finite scores, got NaN or infinity"):
        LayerWeight(policy, WINDOW, scores)


def test_only_an_entropy_refuses_negative_scores() -> None:
    with pytest.raises(PolicyError, match="'lava' at layer 5: expected scores of zero or more") as caught:
        LayerWeight(get_policy("lava"), WINDOW, -GOOD)
    assert_all_parts(caught.value, got="a negative one")
    assert LayerWeight(get_policy("knorm"), WINDOW, -GOOD).value() == 2.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1e-9])
def test_a_layer_weight_that_cannot_be_compared_is_refused(bad: float) -> None:
    policy = Policy("mine", "test", lambda _: GOOD, layer_rule=lambda _: torch.tensor(bad, dtype=torch.float64))
    with pytest.raises(
        PolicyError, match="'mine' at layer 5: expected a finite layer weight of zero or more"
    ) as caught:
        LayerWeight(policy, WINDOW, GOOD)
    assert_all_parts(caught.value, got=str(bad))


def test_a_layer_rule_that_fails_or_gives_no_number_is_named() -> None:
    def failing(window: ScoringWindow) -> Tensor:
        return window.atention  # type: ignore[attr-defined, no-any-return]

    for rule, complaint in (
        (failing, "expected a layer rule that can be computed, got AttributeError: "),
        (lambda _: None, "expected one number as the layer's weight, got NoneType"),
        (lambda _: torch.ones(2), r"expected one number as the layer's weight, got \(2,\)"),
    ):
        policy = Policy("mine", "test", lambda _: GOOD, layer_rule=rule)  # type: ignore[arg-type, return-value]
        with pytest.raises(PolicyError, match=f"'mine' at layer 5: {complaint}"):
            LayerWeight(policy, WINDOW, GOOD)
    assert LayerWeight(Policy("mine", "test", lambda _: GOOD, layer_rule=lambda _: 3), WINDOW, GOOD).value() == 3  # type: ignore[arg-type, return-value]


def test_the_weight_follows_the_layer_rule() -> None:
    assert score_weight(get_policy("lava"), torch.ones(3, 5), 0) == pytest.approx(1.0)
    assert score_weight(get_policy("lava-uniform-layers"), torch.ones(3, 5), 0) == 3.0
    policy = Policy("mine", "test", lambda _: GOOD, layer_rule=lambda window: torch.tensor(window.layer / 2))
    assert LayerWeight(policy, WINDOW, GOOD).value() == 2.5
