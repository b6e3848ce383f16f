"""Rounds over layers that are ragged already: chunks of a prompt, later turns, long generations need them."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import lavakv
from lavakv import BudgetError, CacheStateError, InputError, PolicyError
from lavakv.budgets.naive import (
    divide_naive,
    head_budgets_naive,
    layer_budgets_naive,
    pool_counts_naive,
    pooled_order_naive,
    tiers_naive,
)
from lavakv.budgets.split import pyramid_weights
from lavakv.eviction.session import Phase, Session
from lavakv.policy.registry import get_policy
from lavakv.policy.rules import Policy
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow
from lavakv.store.masked import MaskedStore
from lavakv.store.quantised import QuantisedStore
from lavakv.store.quantiser import Quantiser
from lavakv.store.ragged import RaggedStore
from tests.errors import assert_all_parts
from tests.eviction import engine as engine_module
from tests.eviction.engine import Engine

PROMPT_ONLY = [name for name in lavakv.policies() if get_policy(name).prompt_only]
POLICIES = [name for name in lavakv.policies() if name not in PROMPT_ONLY]
WITHOUT_PROMPT = [name for name in POLICIES if "prompt" not in get_policy(name).needs]


@st.composite
def engines(draw: st.DrawFn, policies: tuple[str, ...] = tuple(POLICIES)) -> tuple[Engine, list[int]]:
    """A batch with padding, layers of unequal head counts, and how many columns each turn brings."""
    heads = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    window, batch = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    turns = [draw(st.integers(6, 20)), *draw(st.lists(st.integers(4, 12), min_size=1, max_size=3))]
    padding = [draw(st.integers(0, 5)) for _ in range(batch)]
    budget = draw(st.integers(window + 1, 14))
    policy = get_policy(draw(st.sampled_from(policies)))
    return Engine(policy, heads, budget, window, padding, seed=draw(st.integers(0, 99))), turns


def _run(engine: Engine, turns: list[int]) -> Engine:
    for turn, columns in enumerate(turns):
        engine.read(columns)
        if turn:
            engine.evict()
    return engine


@settings(max_examples=60, deadline=None)
@given(engines())
def test_totals_are_exact_and_the_window_is_kept(case: tuple[Engine, list[int]]) -> None:
    engine, turns = case
    for turn, columns in enumerate(turns):
        engine.read(columns)
        held_before = engine.session.lengths().sum(dim=(0, 2))
        budgets = engine.evict() if turn else engine.session.budgets
        assert budgets is not None
        for row, padding in enumerate(engine.padding):
            total = engine.budget * sum(engine.num_heads)
            tokens = engine.num_columns - padding
            expected = min(total, int(held_before[row]))
            assert int(engine.session.lengths()[:, row].sum()) == expected
            assert int(budgets.layer_entries[:, row].sum()) == expected
            last = list(range(max(tokens - engine.window, 0), tokens))
            for layer in engine.kept():
                for positions in layer[row]:
                    assert positions[-len(last) :] == last
                    assert positions == sorted(set(positions))


@settings(max_examples=40, deadline=None)
@given(engines())
def test_what_is_kept_was_held_before_and_both_stores_agree(case: tuple[Engine, list[int]]) -> None:
    engine, turns = case
    twin = replace(engine, store=MaskedStore)
    for turn, columns in enumerate(turns):
        engine.read(columns)
        twin.read(columns)
        before = engine.kept()
        assert before == twin.kept()
        if turn:
            one, other = engine.evict(), twin.evict()
            assert all(a.nan_to_num(-1.0).equal(b.nan_to_num(-1.0)) for a, b in zip(one, other, strict=True))
        for then, now in zip(before, engine.kept(), strict=True):
            for rows, left in zip(then, now, strict=True):
                assert all(set(kept) <= set(held) for kept, held in zip(left, rows, strict=True))
    assert engine.kept() == twin.kept()


@settings(max_examples=40, deadline=None)
@given(engines(tuple(WITHOUT_PROMPT)), st.sampled_from([RaggedStore, MaskedStore]))
def test_a_prompt_is_the_round_whose_past_is_empty(
    case: tuple[Engine, list[int]], store: type[RaggedStore] | type[MaskedStore]
) -> None:
    """Everything is kept of one and the general round evicts; the other takes the prompt's own, faster way."""
    engine, (columns, *_) = case
    later = replace(engine, store=store)
    engine.read(columns)
    later.read(columns, budget=columns)
    assert all(len(positions) == columns - padding for layer in later.kept() for row, padding in
               zip(layer, later.padding, strict=True) for positions in row)  # fmt: skip
    later.evict()
    assert later.kept() == engine.kept()


@pytest.mark.parametrize("name", PROMPT_ONLY)
def test_a_policy_that_judges_whole_prompts_judges_no_later_round(name: str) -> None:
    engine = Engine(get_policy("lava"), [2, 1], 8, 2, [0])
    engine.read(14)
    engine.read(9)
    before = engine.kept()
    with pytest.raises(PolicyError, match=re.escape(f"policy '{name}': expected a policy that scores")) as caught:
        engine.evict(policy=get_policy(name))
    assert_all_parts(caught.value, got="one that judges all rows of a whole prompt")
    assert engine.kept() == before
    engine.evict()


def _scores(window: ScoringWindow) -> Tensor:
    """Small whole numbers, many of them equal, that depend on the entry alone."""
    return (torch.cat(list(window.keys), dim=1)[:, : window.num_evictable, 0] * 2).round().clamp(min=0)


def _tiered(window: ScoringWindow) -> TieredScores:
    scores = _scores(window)
    return TieredScores(scores, torch.cat(list(window.values), dim=1)[:, : window.num_evictable, 0] > 0.8)


RULES = {
    "lava": Policy("lava", "", _scores),
    "equal-heads": Policy("equal-heads", "", _scores, "equal", "equal"),
    "pyramid": Policy("pyramid", "", _scores, "pooled", "pyramid"),
    "tiers": Policy("tiers", "", _tiered, "pooled", "equal"),
    "pool": Policy("pool", "", _tiered, "pooled", "pool", floor_share=0.4),
}


@settings(max_examples=60, deadline=None)
@given(engines(("lava",)), st.sampled_from(list(RULES)))
def test_a_later_round_equals_the_loops(case: tuple[Engine, list[int]], rule: str) -> None:
    engine, turns = case
    engine.policy = RULES[rule]
    for turn, columns in enumerate(turns):
        engine.read(columns)
        if turn:
            before, budgets = engine.kept(), engine.evict()
            for row in range(len(engine.padding)):
                held = [layer[row] for layer in before]
                expected = _naive(engine, row, held, budgets.layer_weights[:, row].tolist())
                assert [layer[row] for layer in engine.kept()] == expected


def _naive(engine: Engine, row: int, held: list[list[list[int]]], weights: list[float]) -> list[list[list[int]]]:
    """What a sequence keeps of the positions that its heads hold, `[layers][H]`; the layers' entropies are given."""
    policy, window, padding = engine.policy, engine.window, engine.padding[row]
    total = (engine.budget - window) * sum(engine.num_heads)
    candidates = [[positions[:-window] for positions in layer] for layer in held]
    caps = [sum(map(len, layer)) for layer in candidates]
    if sum(caps) <= total:
        return held
    layers = []
    for index, layer in enumerate(candidates):
        _, keys, values, *_ = engine.made_up(index)
        columns = [[position + padding for position in positions] for positions in layer]
        scores = [(keys[row, h, own, 0] * 2).round().clamp(min=0).tolist() for h, own in enumerate(columns)]
        marks = [(values[row, h, own, 0] > 0.8).tolist() for h, own in enumerate(columns)]
        least = policy.min_entries_per_head(engine.budget, window)
        layers.append((scores, tiers_naive(scores, marks if policy.score is _tiered else None, least)))
    if policy.layer_rule == "pool":
        counts = pool_counts_naive(layers, total)
    else:
        if policy.layer_rule == "equal":
            weights = [float(heads) for heads in engine.num_heads]
        if policy.layer_rule == "pyramid":
            weights = pyramid_weights(engine.budget - window, caps[0] // engine.num_heads[0], engine.num_heads)
        totals = layer_budgets_naive(total, weights, caps)
        counts = [_head_counts(policy, *layer, share) for layer, share in zip(layers, totals, strict=True)]
    kept = []
    for layer, own, (scores, tiers), positions in zip(candidates, counts, layers, held, strict=True):
        rows = []
        for head, count in enumerate(own):
            best = [place for _, place in pooled_order_naive([scores[head]], [tiers[head]])][:count]
            rows.append([*sorted(layer[head][place] for place in best), *positions[head][-window:]])
        kept.append(rows)
    return kept


def _head_counts(policy: Policy, scores: list[list[float]], tiers: list[list[int]], total: int) -> list[int]:
    if policy.head_rule == "equal":
        return divide_naive(total, [1.0] * len(scores), [len(row) for row in scores])
    return head_budgets_naive(scores, total, policy.floor_share, tiers)


@settings(max_examples=30, deadline=None)
@given(engines(("lava", "snapkv", "keydiff", "layer-defensivekv", "residual")), st.data())
def test_permuting_heads_permutes_what_is_kept(case: tuple[Engine, list[int]], data: st.DataObject) -> None:
    """Where the budget is not cut between heads that tie: real numbers do not, but equal shares and rounding may."""
    engine, turns = case
    engine.policy = replace(engine.policy, head_rule="pooled", layer_rule="pool", floor_share=0.0)
    orders = [data.draw(st.permutations(range(heads))) for heads in engine.num_heads]
    moved = replace(engine, order=orders)
    _run(engine, turns)
    _run(moved, turns)
    for layer, order in enumerate(orders):
        for row in range(len(engine.padding)):
            assert moved.kept()[layer][row] == [engine.kept()[layer][row][head] for head in order]


@settings(max_examples=30, deadline=None)
@given(engines(), st.integers(0, 3), st.sampled_from([RaggedStore, MaskedStore]))
def test_a_restored_session_goes_on_as_the_one_it_was(
    case: tuple[Engine, list[int]], cut: int, store: type[RaggedStore] | type[MaskedStore]
) -> None:
    engine, turns = case
    _run(engine, turns)
    engine.read(5)
    engine.session.truncate(cut)
    engine.num_columns -= cut
    twin = replace(engine, store=store)
    twin.num_columns = engine.num_columns
    twin.session.restore(engine.session.snapshot())
    assert twin.kept() == engine.kept()
    assert twin.session.lengths().equal(engine.session.lengths())
    for one in (engine, twin):
        one.read(4)
        one.evict(engine.budget)
    assert twin.kept() == engine.kept()


@settings(max_examples=30, deadline=None)
@given(engines(), st.sampled_from([8, 4]))
def test_rounds_in_fewer_bits_are_those_of_the_masked_store(case: tuple[Engine, list[int]], bits: int) -> None:
    """Scores see what attention sees, so survivors are the same, and each was quantised once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "DIM", 8)
        patch.setattr(engine_module, "VALUE_DIM", 16)
        made, turns = case
        ragged, masked = (
            _run(replace(made, store=partial(kind, bits)), turns) for kind in (QuantisedStore, MaskedStore)
        )
        assert ragged.kept() == masked.kept()
        for layer, stores in enumerate(zip(ragged.session.stores, masked.session.stores, strict=True)):
            whole = ragged.made_up(layer)[1]
            tail = stores[0].tail_length
            for row, head in itertools.product(range(len(made.padding)), range(made.num_heads[layer])):
                held = [store.read(row, head) for store in stores]
                assert all(one.equal(other) for one, other in zip(*held, strict=True))
                past = whole[row, head, held[0].columns[: len(held[0].columns) - tail]]
                assert held[0].keys[: len(past)].equal(Quantiser(bits, 8).quantised_once(past))


def test_a_snapshot_keeps_what_a_mask_brought_back() -> None:
    engine = _filled()
    engine.session.columns.note_brought_back(torch.tensor(True))
    twin = replace(engine)
    twin.session.restore(engine.session.snapshot())
    assert twin.session.columns.brought_back is not None
    assert bool(twin.session.columns.brought_back)


def test_a_snapshot_of_other_layers_is_refused() -> None:
    engine, other = _filled(), Engine(get_policy("lava"), [2, 2], 8, 3, [0])
    other.read(12)
    before = other.kept()
    with pytest.raises(InputError, match=r"snapshot: expected layers of \[2, 2\] KV heads, got layers of \[2, 2, 2\]"):
        other.session.restore(engine.session.snapshot())
    assert other.kept() == before


def test_a_short_prompt_can_be_cut_off_whole() -> None:
    engine = Engine(get_policy("lava"), [2, 1], 12, 6, [0, 0])
    engine.read(3)
    engine.session.truncate(3)
    engine.num_columns -= 3
    assert engine.session.batch == 2
    assert not engine.session.lengths().any()
    assert engine.kept() == [[[[], []], [[], []]], [[[]], [[]]]]


def _filled() -> Engine:
    engine = Engine(get_policy("lava"), [2, 2, 2], 8, 3, [0])
    engine.read(20)
    engine.read(6)
    return engine


def test_a_score_that_fails_leaves_everything_as_it_was() -> None:
    engine = _filled()
    before = engine.kept()

    def failing(window: ScoringWindow) -> Tensor:
        return window.mean_attention.amax(dim=1) * (float("nan") if window.layer == 2 else 1)

    with pytest.raises(PolicyError, match="'broken' at layer 2: expected finite scores"):
        engine.evict(policy=Policy("broken", "", failing))
    assert engine.session.phase is Phase.HOLDING
    assert engine.kept() == before
    engine.evict()
    assert engine.session.lengths().sum() == 8 * 6


def test_a_store_that_fails_half_way_breaks_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no column of the tail was due, so that the tail of no store has moved."""
    engine = _filled()
    engine.evict()

    def failing(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(engine.session.stores[1], "keep", failing)
    with pytest.raises(MemoryError):
        engine.evict(5)
    assert engine.session.phase is Phase.BROKEN


@pytest.mark.parametrize("budget", [2, 3])
def test_a_budget_within_the_window_is_refused(budget: int) -> None:
    engine = _filled()
    before = engine.kept()
    with pytest.raises(BudgetError, match="budget: expected more than the window of 3 tokens"):
        engine.evict(budget)
    assert engine.session.phase is Phase.HOLDING
    assert engine.kept() == before


def test_too_few_observations_queries_or_budgets_are_refused() -> None:
    engine = _filled()
    before, seen, rows = engine.kept(), engine.observations(), [(engine.policy, 8)]
    short = [one._replace(queries=one.queries[:, :, -1:]) for one in seen]
    for observations in (seen[:2], short):
        with pytest.raises(InputError, match="observations: expected the last 3 queries of each of 3 layers"):
            engine.session.evict(observations, rows, 3)
    with pytest.raises(InputError, match="budgets: expected one for each of 1 sequences, got 2"):
        engine.session.evict(seen, rows * 2, 3)
    assert engine.session.phase is Phase.HOLDING
    assert engine.kept() == before


@pytest.mark.parametrize("store", [RaggedStore, MaskedStore])
@pytest.mark.parametrize("policy", ["lava", "criticalkv"])
def test_what_is_left_of_a_cut_tail_is_the_window(store: type[RaggedStore] | type[MaskedStore], policy: str) -> None:
    engine = Engine(get_policy(policy), [2, 1], 12, 6, [0], store=store)
    engine.read(30)
    engine.session.truncate(2)
    engine.num_columns -= 2
    budgets = engine.evict(7)
    assert engine.session.lengths().sum() == 7 * 3
    assert budgets.layer_entries.sum() == 7 * 3
    assert all(head[-4:] == [24, 25, 26, 27] for layer in engine.kept() for row in layer for head in row)


@pytest.mark.parametrize("store", [RaggedStore, MaskedStore])
def test_a_tail_that_is_cut_off_whole_holds_nothing(store: type[RaggedStore] | type[MaskedStore]) -> None:
    engine = Engine(get_policy("lava"), [2, 1], 12, 6, [0], store=store)
    engine.read(30)
    past = engine.session.lengths() - torch.tensor([[[6, 6]], [[6, 0]]])
    engine.session.truncate(6)
    engine.num_columns -= 6
    assert engine.session.lengths().equal(past)
    assert [len(head) for layer in engine.kept() for head in layer[0]] == past[past > 0].tolist()
    with pytest.raises(CacheStateError, match="got none: they were all cut off"):
        engine.evict(7)


def test_padding_in_the_window_of_a_sequence_that_keeps_all_is_not_counted() -> None:
    engine = Engine(get_policy("lava"), [2, 1], 20, 4, [0])
    engine.read(10)
    engine.session.begin(torch.tensor([[False, True]]), all_real=False, tokens=torch.zeros(1, 2).long())
    engine.num_columns += 2
    for layer, store in enumerate(engine.session.stores):
        store.append(*(part[:, :, -2:] for part in engine.made_up(layer)[1:3]))
    engine.session.end(succeeded=True)
    budgets = engine.evict()
    assert engine.session.lengths().tolist() == [[[11, 11]], [[11, 0]]]
    assert budgets.head_entries.equal(engine.session.lengths())


def test_nothing_can_be_evicted_from_an_empty_or_a_broken_session() -> None:
    empty = Session([RaggedStore()], [2])
    for act in (lambda: empty.evict([], [], 3), empty.snapshot, lambda: empty.truncate(1)):
        with pytest.raises(CacheStateError, match="got an empty cache"):
            act()
    engine = _filled()
    engine.session.begin(torch.ones(1, 1, dtype=torch.bool), all_real=True, tokens=torch.zeros(1, 1).long())
    for action in (engine.evict, engine.session.snapshot, lambda: engine.session.truncate(1)):
        with pytest.raises(CacheStateError, match="half-way"):
            action()
    engine.session.end(succeeded=False)
    assert engine.session.phase is Phase.BROKEN
    with pytest.raises(CacheStateError, match="half-way"):
        engine.evict()


def test_a_window_with_padding_is_refused() -> None:
    engine = _filled()
    engine.session.begin(torch.zeros(1, 1, dtype=torch.bool), all_real=False, tokens=torch.zeros(1, 1).long())
    for layer, store in enumerate(engine.session.stores):
        store.append(*(part[:, :, -1:] for part in engine.made_up(layer)[1:3]))
    engine.session.end(succeeded=True)
    engine.num_columns += 1
    with pytest.raises(InputError, match="tokens in the last 3 columns of each sequence that evicts"):
        engine.evict()
    assert engine.session.phase is Phase.HOLDING
