"""The reference of the family itself, on tiny models and by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from tests.hf.zoo import prompt, tiny
from tests.oracle import family, family_changes, family_noise, reference
from tests.oracle.family_scores import max_pool, mean_pool
from tests.oracle.family_view import Ranking, View
from tests.oracle.repetition import capture_twice

LENGTH, WINDOW = 80, 8
EVICTABLE = LENGTH - WINDOW


@pytest.fixture(scope="module")
def model():
    return tiny("llama", attention="eager")


@pytest.fixture(scope="module")
def captures(model):
    return capture_twice(model, prompt(LENGTH)).captures


@pytest.fixture(scope="module")
def layers(captures) -> list[View]:
    return family.views(captures, WINDOW)


@pytest.mark.parametrize("policy", family.POLICIES)
@pytest.mark.parametrize("budget", [9, 24, 79, 80])
def test_totals_are_exact_and_windows_whole(layers, policy: str, budget: int) -> None:
    heads = [positions for layer in family.survivors(layers, policy, budget) for positions in layer]
    assert sum(map(len, heads)) == budget * len(heads)
    for positions in heads:
        assert positions == sorted(set(positions))
        assert positions[-WINDOW:] == list(range(EVICTABLE, LENGTH))


@pytest.mark.parametrize(
    ("policy", "rules"),
    [
        ("lava", {}),
        ("lava-uniform-layers", {"layer_rule": "equal"}),
        ("lava-uniform-heads", {"head_rule": "equal"}),
    ],
)
def test_lava_is_the_first_reference(captures, layers, policy: str, rules: dict[str, str]) -> None:
    expected = reference.survivors(captures, 24, WINDOW, **rules)
    assert family.survivors(layers, policy, 24) == list(expected.values())


@pytest.mark.parametrize("policy", sorted(set(family.POLICIES) - {"knorm"}))  # one token's keys are equally long
def test_padding_on_the_left_changes_nothing(policy: str) -> None:
    model, ids = tiny("llama", dtype=torch.float64, attention="sdpa"), prompt(LENGTH)
    padded = torch.cat([torch.zeros(1, 5, dtype=ids.dtype), ids], dim=1)
    alone = family.views(capture_twice(model, ids).captures, WINDOW)
    beside = capture_twice(model, padded, (padded != 0).long()).captures
    beside = family.views(beside, WINDOW, num_padding=5)
    assert family.survivors(beside, policy, 24) == family.survivors(alone, policy, 24)


def test_attention_is_the_models_own(model, layers) -> None:
    told = model(prompt(LENGTH), output_attentions=True).attentions
    for view, attention in zip(layers, told, strict=True):
        torch.testing.assert_close(torch.stack(view.whole), attention[0, :, -WINDOW:])
        torch.testing.assert_close(torch.stack(view.received), attention[0].sum(dim=1)[:, :EVICTABLE])


def test_single_rows_are_the_models_own(model, layers) -> None:
    told = model(prompt(LENGTH), output_attentions=True).attentions
    for view, attention in zip(layers, told, strict=True):
        for places in ([0, 1, EVICTABLE - 1, EVICTABLE, LENGTH - 1], [EVICTABLE], [30, 7]):
            rows = [view.rows_at(query, places) for query in range(attention.shape[1])]
            torch.testing.assert_close(torch.stack(rows), attention[0, :, places])


def test_output_norms_are_those_of_the_projection(model, layers) -> None:
    for view, layer in zip(layers, model.model.layers, strict=True):
        for head in view.heads:
            alone = torch.zeros(2, EVICTABLE, 4, 8)  # one of the two query heads of a KV head speaks at a time
            for turn, query in enumerate(view.queries_of(head)):
                alone[turn, :, query] = view.values[head]
            outputs = layer.self_attn.o_proj(alone.flatten(2))
            torch.testing.assert_close(view.output_norms[head], outputs.abs().sum(dim=2).mean(dim=0))


def test_noise_is_even_and_depends_on_all_four_parts() -> None:
    plain = family_noise.noise(0, 0, 0, 4000)
    assert len(set(plain)) > 3990
    assert 0 <= plain.min() < 0.01 < 0.99 < plain.max() < 1
    assert abs(plain.mean() - 0.5) < 0.02
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert (family_noise.noise(*other, 4000) == plain).mean() < 0.01


def test_pools() -> None:
    row = torch.tensor([5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 10.0])
    assert max_pool(row).tolist() == [5.0, 5.0, 5.0, 10.0, 10.0, 10.0, 10.0]
    assert mean_pool(row).tolist() == [1.0, 1.0, 1.0, 0.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("num_layers", "mean", "evictable", "line"),
    [(3, 10, 100, ["19.5", "10", "0.5"]), (3, 10, 18, [18, 10, 2]), (2, 10, 15, [15, 5]), (1, 10, 15, [10])],
)
def test_pyramid(num_layers: int, mean: int, evictable: int, line: list) -> None:
    assert family.pyramid(num_layers, mean, evictable) == [Fraction(part) for part in line]


def test_streaming_llm_keeps_the_start_and_the_end(layers) -> None:
    for heads in family.survivors(layers, "streaming-llm", 24):
        assert heads == [[0, 1, 2, 3, *range(LENGTH - 20, LENGTH)]] * 2


def test_criticalkv_keeps_the_first_half_by_attention(layers) -> None:
    by_attention = family.survivors(layers, "snapkv", WINDOW + 8)
    by_both = family.survivors(layers, "criticalkv", WINDOW + 16)
    heads = [pair for layer in zip(by_attention, by_both, strict=True) for pair in zip(*layer, strict=True)]
    assert all(set(half) <= set(whole) for half, whole in heads)


def test_changes_are_those_of_an_attention_without_the_entry(layers) -> None:
    """One row alone, brought back to a sum of one after its entry is struck out."""
    for view in layers:
        for query, rows in enumerate(view.whole):
            values, paid = view.all_values[query // len(view.queries_of(0))], rows[-1]
            apart = family_changes.apart(view, query, paid)
            for place in (0, 17, EVICTABLE):
                left = paid.clone()
                left[place] = 0
                moved = (left / left.sum()) @ values - paid @ values
                torch.testing.assert_close(paid[place] / (1 - paid[place]) * apart[place], moved.norm())


@pytest.mark.parametrize("keep", [2, 30, EVICTABLE])
def test_defensivekv_keeps_what_carries_attention(layers, keep: int) -> None:
    for view in layers:
        ranking = family.POLICIES["defensivekv"].score(view, keep)
        for head in view.heads:
            mean = torch.stack([view.whole[query] for query in view.queries_of(head)]).mean(dim=(0, 1))
            carriers = sorted(ranking.protected[head], key=lambda place: mean[place])
            held = mean[EVICTABLE:].sum() + mean[carriers].sum()
            assert len(carriers) == keep or held >= 0.9
            assert not carriers or held - mean[carriers[0]] < 0.9


def test_entries_kept_outright_come_first() -> None:
    ranking = Ranking([[0.1, 0.2, 0.9], [0.1, 0.5, 0.5]], [{0}, set()])
    assert ranking.best_first(0) == [0, 2, 1]
    assert family.within_layer(ranking, 3, "pooled") == [[0, 2], [1]]


def test_one_pool_guarantees_a_tenth() -> None:
    rich, poor = [float(20 + place) for place in range(40)], [float(-place) for place in range(40)]
    kept = family.one_pool([Ranking([rich, poor]), Ranking([rich])], keep=10)
    assert [[len(head) for head in layer] for layer in kept] == [[15, 1], [14]]
    assert kept[0][1] == [0]
