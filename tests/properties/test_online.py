"""Trimming while the prefill runs ends where one-shot selection ends, within its bounds on memory and copying."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavakv import worst_case_entries
from lavakv.budgets.worst_case import SLACK, worst_case_spare
from lavakv.store.masked import MaskedStore
from lavakv.store.ragged import RaggedStore
from tests.eviction.controlled import CONTROLLED
from tests.eviction.driver import Prefill, realistic_layers

policies = st.sampled_from(list(CONTROLLED))


@st.composite
def prefills(draw: st.DrawFn) -> Prefill:
    """Ragged batches, unequal layers, prompts shorter than budget or window, scores with and without ties."""
    window, batch = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    lengths = draw(st.lists(st.integers(1, 24), min_size=batch, max_size=batch))
    budgets = draw(st.lists(st.integers(window + 1, 20), min_size=batch, max_size=batch))
    num_layers = draw(st.one_of(st.integers(1, 6), st.integers(1, 40)))
    heads = draw(st.lists(st.integers(1, 5), min_size=num_layers, max_size=num_layers))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    tied = draw(st.booleans())

    def scores(count: int, length: int) -> torch.Tensor:
        spread = 6 * torch.rand(count, 1, generator=generator)  # uneven heads
        noise = torch.exp(spread * torch.randn(count, length, generator=generator))
        return noise.round().clamp(max=50) if tied else noise

    layers = [[scores(count, length) for length in lengths] for count in heads]
    return Prefill(draw(policies), layers, budgets, window)


@settings(max_examples=50)
@given(prefills(), st.sampled_from([RaggedStore, MaskedStore]))
def test_online_trimming_ends_where_one_shot_selection_ends(
    prefill: Prefill, store: type[RaggedStore] | type[MaskedStore]
) -> None:
    _assert_ends_as_one_shot(prefill, store)


@settings(max_examples=50)
@given(prefills(), st.sampled_from([RaggedStore, MaskedStore]))
def test_all_layers_at_once_end_where_layer_after_layer_ends(
    prefill: Prefill, store: type[RaggedStore] | type[MaskedStore]
) -> None:
    _, online = prefill.run(store)
    kept = [one.past_counts() for one in prefill.stores]
    eviction, budgets = prefill.run_at_once(store)
    assert [one.past_counts() for one in prefill.stores] == kept
    for one, other in zip(online, budgets, strict=True):
        assert one.nan_to_num(-1.0).equal(other.nan_to_num(-1.0))
    assert eviction.copied_entries == sum(map(sum, (row for layer in kept for row in layer)))


@pytest.mark.parametrize("policy", CONTROLLED)
def test_every_rule_ends_where_one_shot_selection_ends(policy: str) -> None:
    for seed in range(3):
        prefill = Prefill(policy, realistic_layers(6, 4, 60, seed), [20], window=4)
        _assert_ends_as_one_shot(prefill, RaggedStore)


@settings(max_examples=25)
@given(prefills())
def test_entries_held_are_the_prompts_own_and_no_more(prefill: Prefill) -> None:
    """The ragged store allocates what it holds; keys and values belong to the columns it names."""
    prefill.run(RaggedStore)
    for layer, store in enumerate(prefill.stores):
        assert isinstance(store, RaggedStore)
        assert store.past is not None
        keys, values = prefill.columns(layer)
        for segment, (held_keys, held_values) in enumerate(store.past.segments):
            row, head = divmod(segment, store.num_heads)
            start, stop = store.past.offsets[segment], store.past.offsets[segment + 1]
            columns = store.past.columns[start:stop].long()
            assert torch.equal(held_keys, keys[row, head, columns])
            assert torch.equal(held_values, values[row, head, columns])
    tails = sum(store.tail_length * heads for store, heads in zip(prefill.stores, prefill.num_heads, strict=True))
    pasts = sum(sum(map(sum, store.past_counts())) for store in prefill.stores)
    assert prefill.entries() == pasts + tails * len(prefill.budgets)


@settings(max_examples=40)
@given(prefills(), st.integers(5, 40))
def test_no_prompt_ever_holds_more_than_its_worst_case(prefill: Prefill, budget: int) -> None:
    alone = Prefill(prefill.policy, [[layer[0]] for layer in prefill.layers], [budget], prefill.window)
    (plan,) = alone.plans
    worst = worst_case_entries(plan.num_tokens, budget, alone.num_heads, alone.window)
    _, budgets = alone.run(RaggedStore)
    assert alone.entries() == worst.final
    assert int(budgets.layer_entries.max()) <= worst.layer
    assert alone.most_entries <= worst.peak


SHAPES = {"even": lambda _: 1.0, "flatter": lambda layer: 3 - layer / 11, "steeper": lambda layer: layer / 11}
CASES = [
    *((policy, "even", 600, 60, 2) for policy in CONTROLLED),
    *(("lava", shape, 600, 60, 2) for shape in ("flatter", "steeper")),
    *(("lava", shape, 400, 200, 8) for shape in SHAPES),
    ("lava", "flatter", 2000, 256, 4),
]


@pytest.mark.parametrize(("policy", "shape", "tokens", "budget", "heads"), CASES)
def test_memory_and_copying_stay_bounded_at_32_layers(
    policy: str, shape: str, tokens: int, budget: int, heads: int
) -> None:
    prefill = Prefill(policy, realistic_layers(32, heads, tokens, tokens, SHAPES[shape]), [budget], window=32)
    eviction, _ = prefill.run(RaggedStore)
    total, spares = (budget - 32) * heads * 32, 32 * worst_case_spare(heads)
    assert eviction.copied_entries < 10 * total
    assert eviction.peak_entries <= SLACK * total + spares
    assert prefill.most_entries <= SLACK * total + spares + 32 * heads * 32 + heads * tokens


@settings(max_examples=20)
@given(st.integers(2, 40), st.integers(40, 120), policies, st.integers(0, 2**32 - 1))
def test_memory_stays_bounded_at_any_depth(num_layers: int, tokens: int, policy: str, seed: int) -> None:
    prefill = Prefill(policy, realistic_layers(num_layers, 3, tokens, seed), [24], window=8)
    eviction, _ = prefill.run(RaggedStore)
    assert eviction.peak_entries <= SLACK * 16 * 3 * num_layers + num_layers * worst_case_spare(3)


def _assert_ends_as_one_shot(prefill: Prefill, store: type[RaggedStore] | type[MaskedStore]) -> None:
    _, budgets = prefill.run(store)
    for row, plan in enumerate(prefill.plans):
        selection = prefill.one_shot(row)
        for layer, heads in enumerate(prefill.num_heads):
            counts = selection.counts[layer].tolist()
            assert budgets.head_entries[layer, row].tolist()[:heads] == counts[:heads]
            for head in range(heads):
                expected = selection.positions[layer, head, : counts[head]].tolist()
                assert prefill.kept(layer, row, head) == expected
        held = min(plan.tokens_per_head, plan.num_tokens) * sum(prefill.num_heads)
        assert int(budgets.layer_entries[:, row].sum()) == held
