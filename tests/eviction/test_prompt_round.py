from __future__ import annotations

import math
import pickle
from dataclasses import replace

import pytest
import torch

from lavakv import PolicyError
from lavakv.eviction.records import RankedLayer
from lavakv.eviction.round import Round
from lavakv.eviction.shares import SequencePlan
from lavakv.policy.registry import get_policy
from lavakv.scoring.naive.family import eviction_loss_naive
from lavakv.scoring.window import ScoringWindow
from lavakv.selection.allocation import allocate, prompt_caps
from lavakv.store.masked import MaskedStore
from lavakv.store.ragged import RaggedStore
from tests.eviction.controlled import CONTROLLED
from tests.eviction.driver import Prefill, realistic_layers
from tests.scoring.cases import naive

STORES = pytest.mark.parametrize("store", [RaggedStore, MaskedStore])


def _window(layer: int = 0, tokens: int = 40, window: int = 4) -> ScoringWindow:
    generator = torch.Generator().manual_seed(layer)
    queries = torch.randn(2, 3, window, 5, generator=generator)
    keys, values = torch.randn(2, tokens, 5, generator=generator), torch.randn(2, tokens, 5, generator=generator)
    return ScoringWindow(queries, [keys], [values], 0.4, layer=layer)


@pytest.mark.parametrize(
    ("num_tokens", "evictable", "keeps_all", "mean"),
    [(0, 0, True, 0), (3, 0, True, 0), (4, 0, True, 0), (10, 6, True, 6), (11, 7, False, 6), (99, 95, False, 6)],
)
def test_a_plan_counts_the_window_inside_the_budget(
    num_tokens: int, evictable: int, keeps_all: bool, mean: int
) -> None:
    plan = SequencePlan(num_tokens, num_padding=0, tokens_per_head=10, window=4, policy=get_policy("lava"))
    assert (plan.num_evictable, plan.keeps_all, plan.mean_entries) == (evictable, keeps_all, mean)


@STORES
def test_a_prompt_within_its_budget_is_kept_whole(store: type[RaggedStore]) -> None:
    lengths = [7, 3, 1]  # above, below and far below the window
    layers = [[torch.rand(2, length) for length in lengths] for _ in range(3)]
    prefill = Prefill("lava", layers, [7, 7, 7], window=4)
    eviction, budgets = prefill.run(store)
    for row, length in enumerate(lengths):
        assert all(prefill.kept(layer, row, head) == list(range(length)) for layer in range(3) for head in range(2))
    assert budgets.layer_entries.tolist() == [[14, 6, 2]] * 3
    assert bool(budgets.layer_weights.isnan().all())
    assert bool((budgets.estimated_loss == 0).all())
    assert eviction.plans == prefill.plans
    assert eviction.copied_entries == 3 * 2 * (7 - 4)  # once each, and never again


@STORES
def test_the_report_has_a_column_a_head(store: type[RaggedStore]) -> None:
    layers = [[torch.rand(heads, 30)] for heads in (1, 3, 2)]
    _, budgets = Prefill("lava", layers, [10], window=4).run(store)
    assert budgets.head_entries.shape == (3, 1, 3)
    assert budgets.head_entries[0, 0, 1:].tolist() == [0, 0]
    assert budgets.head_entries.sum(dim=2).equal(budgets.layer_entries)
    assert int(budgets.layer_entries.sum()) == 10 * 6
    assert bool((budgets.layer_weights > 0).all())


def test_the_estimated_loss_is_the_bounds_evicted_sum() -> None:
    windows, stores = [_window(layer) for layer in range(3)], [RaggedStore() for _ in range(3)]
    eviction = Round([SequencePlan(40, 0, 12, 4, get_policy("lava"))], stores, [2, 2, 2])
    budgets = None
    for store, window in zip(stores, windows, strict=True):
        store.hold(window.keys[0][None], window.values[0][None])
        budgets = eviction.add_layer([window])
    assert budgets is not None
    for layer, (store, window) in enumerate(zip(stores, windows, strict=True)):
        loss = eviction_loss_naive(naive(window))
        kept = [set(store.past_columns(0, head).tolist()) for head in range(2)]
        evicted = [loss[head][i] for head in range(2) for i in range(36) if i not in kept[head]]
        # float32 losses: each rounds a handful of times, and the sum's error is that of its largest part, the total.
        bound = 16 * torch.finfo(torch.float32).eps * math.fsum(map(math.fsum, loss))
        assert float(budgets.estimated_loss[layer, 0]) == pytest.approx(math.fsum(evicted), abs=bound, rel=0)


def test_nothing_evicted_loses_nothing() -> None:
    ranked = RankedLayer.of(get_policy("lava"), _window(), min_entries_per_head=0)
    assert ranked.placed(36).evicted_loss([36, 36]) == pytest.approx(0, abs=1e-12 * ranked.total_loss)
    assert ranked.placed(0).evicted_loss([0, 0]) == ranked.total_loss


def test_less_kept_of_what_is_settled_loses_more() -> None:
    ranked = RankedLayer.of(get_policy("lava"), _window(), min_entries_per_head=0)
    settled = ranked.placed(10)
    losses = [settled.evicted_loss([count, 10]) for count in range(11)]
    assert losses == [ranked.placed(36).evicted_loss([count, 10]) for count in range(11)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("name", ["lava", "tiers", "tiered-pool"])
def test_what_no_smaller_budget_can_ask_for_is_forgotten(name: str) -> None:
    """Views of the whole ranking would keep all of it alive, and pickling writes what is alive."""
    policy = CONTROLLED[name]
    window = _window(tokens=5000)
    ranked = RankedLayer.of(policy, replace(window, keys=[window.keys[0].abs()]), min_entries_per_head=1)
    allocation = allocate(policy, 3, prompt_caps([2, 2], 4996))
    before = len(pickle.dumps(allocation))
    allocation.add(ranked.ranking, ranked.weight)
    assert allocation.most(0) <= 12 + 4
    assert len(pickle.dumps(ranked)) > 10 * 4996
    assert len(pickle.dumps(allocation)) < before + 1000
    assert len(pickle.dumps(ranked.placed(6))) < 1000


def test_scores_that_are_no_numbers_name_policy_and_layer() -> None:
    policy = replace(get_policy("lava"), name="mine", score=lambda window: window.value_norms[:, :36] * math.nan)
    with pytest.raises(PolicyError, match="policy 'mine' at layer 7"):
        RankedLayer.of(policy, _window(layer=7), min_entries_per_head=0)


def test_only_one_layer_is_held_whole() -> None:
    prefill = Prefill("lava", realistic_layers(4, 2, 500, seed=3), [20], window=8)
    eviction, _ = prefill.run(RaggedStore)
    past_and_windows = eviction.peak_entries + 4 * 2 * 8
    assert prefill.most_entries <= past_and_windows + 2 * 500
