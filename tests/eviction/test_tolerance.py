"""Budgets that a tolerated loss leads to: the least ones within it, in prompts and in later rounds."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import lavakv
from lavakv import BudgetError, PolicyError
from lavakv.budgets.spec import Tolerance
from lavakv.eviction.records import Budgets
from lavakv.eviction.tolerance import check_scores_first, sequence_plan
from lavakv.policy.registry import get_policy
from lavakv.policy.rules import Policy
from lavakv.scoring.lava import eviction_loss
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow
from lavakv.store.masked import MaskedStore
from tests.errors import assert_all_parts
from tests.eviction.engine import Engine

SERVED = {"output_weight", "residual_norms", "prompt"}


def uneven(window: ScoringWindow) -> Tensor:
    """Scores by which some heads win all that no minimum gives to the others."""
    scale = 100.0 ** torch.arange(window.queries.shape[0])
    return eviction_loss(window) * scale[:, None]


def uneven_tiers(window: ScoringWindow) -> TieredScores:
    scores = uneven(window)
    return TieredScores(scores, eviction_loss(window) > 0.05)


BUILT_IN = [get_policy(name) for name in lavakv.policies()]
POLICIES = [policy for policy in BUILT_IN if not policy.prompt_only and set(policy.needs) <= SERVED]
POLICIES += [
    Policy("uneven pool", "", uneven, "pooled", "pool", floor_share=0.5),
    Policy("uneven tiers", "", uneven_tiers, "pooled", "pool", floor_share=0.5),
]
LATER = [policy for policy in POLICIES if "prompt" not in policy.needs]


def read(engine: Engine, num_columns: int, budget: int | Tolerance) -> Budgets:
    """A prompt whose layers are taken at once, as budgets that are still open need it."""
    session, engine.num_columns = engine.session, num_columns
    columns = torch.arange(num_columns).expand(len(engine.padding), -1)
    real = columns >= torch.tensor(engine.padding)[:, None]
    session.begin(real, all_real=not any(engine.padding), tokens=columns)
    plans = [
        sequence_plan(num_columns - padding, padding, budget, engine.window, engine.policy, engine.protect)
        for padding in engine.padding
    ]
    session.plan(plans)
    layers = range(len(engine.num_heads))
    session.take_all((*engine.made_up(layer)[1:3], engine.windows(layer, plans)) for layer in layers)
    session.end(succeeded=True)
    assert session.budgets is not None
    return session.budgets


@st.composite
def engines(draw: st.DrawFn, policies: list[Policy]) -> tuple[Engine, int]:
    """A batch with padding and positions to protect, and its columns."""
    heads = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    padding = [draw(st.integers(0, 5)) for _ in range(draw(st.integers(1, 2)))]
    start, count = draw(st.integers(0, 6)), draw(st.integers(0, 4))
    policy = draw(st.sampled_from(policies))
    protect = range(start, start + count)
    engine = Engine(policy, heads, 0, draw(st.integers(1, 4)), padding, seed=draw(st.integers(0, 99)), protect=protect)
    return engine, draw(st.integers(8, 30))


def fresh(engine: Engine, **other: object) -> Engine:
    """The same engine before it read anything."""
    return replace(engine, num_columns=0, **other)  # type: ignore[arg-type]


def least(engine: Engine) -> int:
    return engine.window + len(engine.protect) + 1


@settings(max_examples=60, deadline=None)
@example((Engine(POLICIES[-2], [2, 3], 0, 2, [0]), 30), 0.4)
@example((Engine(POLICIES[-1], [3, 1], 0, 2, [4]), 30), 0.4)
@given(engines(POLICIES), st.floats(0, 1, exclude_max=True))
def test_a_prompt_keeps_the_least_that_is_within_the_tolerance(case: tuple[Engine, int], max_loss: float) -> None:
    engine, columns = case
    found, twin = read(engine, columns, Tolerance(max_loss)), fresh(engine, store=MaskedStore)
    read(twin, columns, Tolerance(max_loss))
    assert engine.kept() == twin.kept()
    assert bool((found.relative_loss <= max_loss).all())
    for row, padding in enumerate(engine.padding):
        budget, tokens = engine.session.tokens_per_head[row], columns - padding
        if tokens <= least(engine):
            assert budget == 0
            assert found.tokens_per_head[row] == tokens
            continue
        assert found.tokens_per_head[row] == budget >= least(engine)
        given_budget = fresh(engine)
        given_budget.read(columns, budget)  # layer after layer, as the budget is known
        assert [layer[row] for layer in given_budget.kept()] == [layer[row] for layer in engine.kept()]
        assert given_budget.session.budgets is not None
        for mine, other in zip(found, given_budget.session.budgets, strict=True):
            assert torch.equal(mine[:, row].nan_to_num(-1), other[:, row].nan_to_num(-1))
        if budget > least(engine):
            less = fresh(engine)
            less.read(columns, budget - 1)
            assert less.session.budgets is not None
            assert less.session.budgets.relative_loss[row] > max_loss


@settings(max_examples=30, deadline=None)
@given(engines(POLICIES), st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=5))
def test_a_larger_tolerance_never_keeps_more(case: tuple[Engine, int], tolerances: list[float]) -> None:
    engine, columns = case
    found = [read(fresh(engine), columns, Tolerance(one)).tokens_per_head for one in sorted(tolerances)]
    assert all(bool((one >= other).all()) for one, other in pairwise(found))


@settings(max_examples=30, deadline=None)
@given(engines(LATER), st.floats(0, 1, exclude_max=True))
def test_a_prompt_that_is_evicted_later_ends_as_one_that_is_at_once(case: tuple[Engine, int], max_loss: float) -> None:
    engine, columns = case
    later = fresh(engine)
    read(engine, columns, Tolerance(max_loss))
    later.read(columns, columns)
    if columns - max(engine.padding) >= engine.window:  # a later round wants no padding in its window
        later.session.evict(later.observations(), _rows(later, Tolerance(max_loss)), later.window, later.protect)
        assert later.kept() == engine.kept()
        assert later.session.tokens_per_head == engine.session.tokens_per_head


@settings(max_examples=40, deadline=None)
@given(engines(LATER), st.integers(6, 12), st.floats(0, 1, exclude_max=True))
def test_a_round_over_ragged_layers_keeps_the_least_as_well(
    case: tuple[Engine, int], more: int, max_loss: float
) -> None:
    engine, columns = fresh(case[0], padding=[0]), case[1]
    budget = least(engine) + 3

    def again(budget: int | Tolerance) -> Engine:
        one = fresh(engine)
        one.read(columns, budget=least(engine) + 3)
        one.read(more)
        one.session.evict(one.observations(), _rows(one, budget), one.window, one.protect)
        return one

    one = again(Tolerance(max_loss))
    (found,), budgets = one.session.tokens_per_head, one.session.budgets
    assert budgets is not None
    assert float(budgets.relative_loss) <= max_loss
    for layer in one.kept():
        assert all(set(range(engine.protect.start, engine.protect.stop)) <= set(head) for head in layer[0])
    if found:
        assert again(found).kept() == one.kept()
        if found > least(engine):
            less = again(found - 1).session.budgets
            assert less is not None
            assert float(less.relative_loss) > max_loss
    else:
        assert columns + more <= least(engine) or budget >= columns + more


def _rows(engine: Engine, budget: int | Tolerance) -> list[tuple[Policy, int | Tolerance]]:
    return [(engine.policy, budget)] * len(engine.padding)


@pytest.mark.parametrize("name", ["lava", "snapkv", "residual-max"])
def test_the_loss_is_the_evicted_share_of_the_bound(name: str) -> None:
    engine = Engine(get_policy(name), [2, 3, 1], 0, 3, [0], seed=5)
    budgets = read(engine, 40, Tolerance(0.3))
    evicted = total = 0.0
    plans = [sequence_plan(40, 0, Tolerance(0.3), 3, engine.policy)]
    for layer, heads in enumerate(engine.kept()):
        (window,) = engine.windows(layer, plans)
        assert window is not None
        loss = eviction_loss(window).double()
        total += float(loss.sum())
        for head, positions in enumerate(heads[0]):
            evicted += float(loss[head].sum() - loss[head, [p for p in positions if p < 37]].sum())
    assert float(budgets.relative_loss) == pytest.approx(evicted / total, rel=1e-9)
    assert 0.2 < float(budgets.relative_loss) <= 0.3


def test_a_largest_budget_goes_before_the_tolerance() -> None:
    engine = Engine(get_policy("lava"), [2, 2], 0, 3, [0])
    budgets = read(engine, 40, Tolerance(0.01, most=12))
    assert engine.session.tokens_per_head == [12]
    assert float(budgets.relative_loss) > 0.01
    assert int(engine.session.lengths().sum()) == 12 * 4
    other = fresh(engine)
    read(other, 40, Tolerance(0.6, most=39))
    free = fresh(engine)
    read(free, 40, Tolerance(0.6))
    assert other.kept() == free.kept()


class OddValues(Engine):
    """One value of the last layer is no finite number."""

    odd = float("inf")

    def made_up(self, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        queries, keys, values, weight, norms = super().made_up(layer)
        if layer == len(self.num_heads) - 1:
            values[:, :, 5] = self.odd
        return queries, keys, values, weight, norms


@pytest.mark.parametrize("odd", [float("inf"), float("nan")])
def test_losses_that_are_no_numbers_leave_the_session_as_it_was(odd: float) -> None:
    policy = replace(get_policy("snapkv"), score=lambda window: window.candidate_positions.float())
    engine = OddValues(policy, [2, 2], 0, 3, [0])
    engine.odd = odd
    engine.read(30, budget=30)
    before = engine.kept()
    with pytest.raises(BudgetError, match=r"^max_loss: expected estimated losses that are finite") as caught:
        engine.session.evict(engine.observations(), _rows(engine, Tolerance(0.1)), 3)
    assert_all_parts(caught.value, got=str(odd))
    assert engine.kept() == before
    engine.evict(budget=9)
    assert int(engine.session.lengths().sum()) == 9 * 4


def test_values_of_zero_lose_nothing() -> None:
    budgets = Budgets(
        *(torch.zeros(2, 1, dtype=torch.float64) for _ in range(2)), torch.ones(2, 1, 1), *[torch.zeros(2, 1)] * 2
    )
    assert budgets.relative_loss.tolist() == [0.0]


@pytest.mark.parametrize("name", lavakv.policies())
def test_policies_that_score_for_one_budget_are_refused_by_name(name: str) -> None:
    policy = get_policy(name)
    if "tokens_per_head" not in policy.needs:
        check_scores_first(policy)
        return
    with pytest.raises(PolicyError, match=name) as caught:
        check_scores_first(policy)
    assert_all_parts(caught.value)
