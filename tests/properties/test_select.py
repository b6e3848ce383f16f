from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

import lavakv
from lavakv.budgets.heads import pooled_weights
from lavakv.naive_selection import select_naive
from lavakv.policy import get_policy
from lavakv.ranking import rank
from lavakv.selection import Selection, layer_weight

policies = st.sampled_from(list(lavakv.policies()))


@st.composite
def prompts(draw: st.DrawFn) -> list[torch.Tensor]:
    """Scores of one to five layers of unequal head counts, full of ties; some layers are all zeros."""
    generator, evictable = _generator(draw), draw(st.integers(0, 11))
    shapes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=5))
    return [torch.randint(0, most, (heads, evictable), generator=generator).float() for heads, most in shapes]


@st.composite
def prompts_without_ties(draw: st.DrawFn) -> list[torch.Tensor]:
    """The same with every score another."""
    generator, evictable = _generator(draw), draw(st.integers(1, 11))
    heads = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    scores = torch.randperm(sum(heads) * evictable, generator=generator) + 1.0
    parts = scores.split([count * evictable for count in heads])
    return [part.view(-1, evictable) for part in parts]


def _generator(draw: st.DrawFn) -> torch.Generator:
    return torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))


def _kept(selection: Selection, layers: list[torch.Tensor]) -> list[list[list[int]]]:
    """As lists; checks the padding."""
    kept = []
    for rows, counts, layer in zip(selection.positions, selection.counts.tolist(), layers, strict=True):
        assert counts[layer.shape[0] :] == [0] * (len(counts) - layer.shape[0])
        for row, count in zip(rows, counts, strict=True):
            assert bool((row[:count] >= 0).all())
            assert bool((row[count:] == -1).all())
        kept.append([row[:count].tolist() for row, count in zip(rows, counts, strict=True)][: layer.shape[0]])
    return kept


@given(prompts(), policies, st.integers(1, 4), st.data())
def test_select_equals_its_naive_twin(layers: list[torch.Tensor], name: str, window: int, data: st.DataObject) -> None:
    policy, evictable = get_policy(name), layers[0].shape[1]
    budget = data.draw(st.integers(window + 1, window + evictable + 2))
    weights = [layer_weight(policy, layer) for layer in layers]
    kept = _kept(lavakv.select(name, layers, budget, window), layers)
    assert kept == select_naive(policy, [layer.tolist() for layer in layers], weights, budget, window)


@given(prompts(), policies, st.integers(1, 4), st.data())
def test_totals_are_exact_and_windows_kept(
    layers: list[torch.Tensor], name: str, window: int, data: st.DataObject
) -> None:
    tokens = layers[0].shape[1] + window
    budget = data.draw(st.integers(window + 1, tokens + 2))
    selection = lavakv.select(name, layers, budget, window)
    assert int(selection.counts.sum()) == min(budget, tokens) * sum(len(layer) for layer in layers)
    for rows in _kept(selection, layers):
        for row in rows:
            assert row == sorted(set(row))
            assert row[-window:] == list(range(tokens - window, tokens))


@given(prompts(), policies, st.integers(1, 4), st.integers(0, 3))
def test_nothing_goes_from_a_prompt_within_its_budget(
    layers: list[torch.Tensor], name: str, window: int, more: int
) -> None:
    tokens = layers[0].shape[1] + window
    selection = lavakv.select(name, layers, tokens + more, window)
    assert all(row == list(range(tokens)) for rows in _kept(selection, layers) for row in rows)


@given(prompts_without_ties(), st.integers(1, 3), st.data())
def test_permuting_heads_permutes_what_is_kept_where_nothing_ties(
    layers: list[torch.Tensor], window: int, data: st.DataObject
) -> None:
    evictable = layers[0].shape[1]
    budget = data.draw(st.integers(window + 1, window + evictable))
    orders = [data.draw(st.permutations(range(len(layer)))) for layer in layers]
    kept = _kept(lavakv.select("lava", layers, budget, window), layers)
    moved = [layer[order] for layer, order in zip(layers, orders, strict=True)]
    kept_moved = _kept(lavakv.select("lava", moved, budget, window), layers)
    for layer, order, before, after in zip(layers, orders, kept, kept_moved, strict=True):
        if not _shares_tie(layer, sum(map(len, before)) - window * len(layer)):
            assert after == [before[head] for head in order]


@given(prompts(), policies, st.data())
def test_strides_and_dtype_change_nothing(layers: list[torch.Tensor], name: str, data: st.DataObject) -> None:
    budget = data.draw(st.integers(3, 3 + layers[0].shape[1]))
    strided = [layer.t().contiguous().t() for layer in layers]
    expected = lavakv.select(name, layers, budget, 2)
    for other in (strided, [layer.double() for layer in layers]):
        assert _kept(lavakv.select(name, other, budget, 2), layers) == _kept(expected, layers)


def _shares_tie(layer: torch.Tensor, total: int) -> bool:
    """Do the last seat a head gets and the first that none gets tie? Then the lower head has it, whoever that is."""
    num_heads, evictable = layer.shape
    weights = pooled_weights(rank(layer).pooled_heads, num_heads, total, get_policy("lava").floor_share)
    quotients = (weights[:, None] / (2 * torch.arange(evictable) + 1)).flatten().sort(descending=True).values
    return 0 < total < layer.numel() and math.isclose(quotients[total - 1], quotients[total], rel_tol=1e-9)
