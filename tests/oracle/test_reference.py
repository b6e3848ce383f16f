"""The reference itself, on tiny models."""

from __future__ import annotations

import pytest
import torch

from tests.hf.zoo import prompt, tiny
from tests.oracle import reference

LENGTH, WINDOW = 80, 8


@pytest.fixture(scope="module")
def model():
    return tiny("llama", attention="sdpa")


@pytest.fixture(scope="module")
def captures(model):
    return reference.capture_prompt(model, prompt(LENGTH)).captures


@pytest.mark.parametrize("layer_rule", ["entropy", "equal"])
@pytest.mark.parametrize("head_rule", ["pooled", "equal"])
@pytest.mark.parametrize("budget", [9, 24, 79])
def test_totals_are_exact_and_windows_whole(captures, budget: int, layer_rule: str, head_rule: str) -> None:
    kept = reference.survivors(captures, budget, WINDOW, layer_rule, head_rule)
    heads = [positions for layer in kept.values() for positions in layer]
    assert sum(map(len, heads)) == budget * len(heads)
    for positions in heads:
        assert positions == sorted(set(positions))
        assert positions[-WINDOW:] == list(range(LENGTH - WINDOW, LENGTH))
    layers = [sum(map(len, layer)) for layer in kept.values()]
    assert layer_rule == "entropy" or len(set(layers)) == 1
    assert head_rule == "pooled" or all(abs(len(layer[0]) - len(layer[1])) <= 1 for layer in kept.values())


@pytest.mark.parametrize("budget", [LENGTH, LENGTH + 1])
def test_a_prompt_within_its_budget_stays_whole(captures, budget: int) -> None:
    kept = reference.survivors(captures, budget, WINDOW)
    assert kept == {layer: [list(range(LENGTH))] * 2 for layer in range(3)}


def test_without_floor_the_layers_largest_scores_stay(captures) -> None:
    kept = reference.survivors(captures, 24, WINDOW, floor_share=0.0)
    for layer, heads in kept.items():
        rows = reference.scores(captures[layer], WINDOW)
        inside = [row[place] for row, places in zip(rows, heads, strict=True) for place in places[:-WINDOW]]
        assert sorted(inside) == sorted(score for row in rows for score in row)[-len(inside) :]


@pytest.mark.parametrize(
    ("total", "weights", "capacities", "parts"),
    [
        (7, [5, 3, 1], [9, 9, 9], [4, 2, 1]),
        (3, [1, 1], [9, 9], [2, 1]),
        (5, [0, 0], [9, 9], [3, 2]),
        (6, [9, 1], [2, 9], [2, 4]),
    ],
)
def test_divide(total: int, weights: list[int], capacities: list[int], parts: list[int]) -> None:
    assert reference.divide(total, weights, capacities) == parts


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt_oss", "qwen2"])
def test_with_everything_kept_text_is_as_generate_writes_it(kind: str) -> None:
    model, ids = tiny(kind, dtype=torch.float64, attention="eager"), prompt(LENGTH)
    captures = reference.capture_prompt(model, ids).captures
    assert model.config._attn_implementation == "eager"
    model.generation_config.eos_token_id = None
    written = model.generate(ids, max_new_tokens=12, do_sample=False)
    everything = reference.survivors(captures, LENGTH, WINDOW)
    assert reference.masked_greedy(model, ids, everything, 12).tolist() == written[:, LENGTH:].tolist()


def test_evicted_entries_are_not_seen(model) -> None:
    ids = prompt(LENGTH)
    few = reference.survivors(reference.capture_prompt(model, ids).captures, 9, WINDOW)
    everything = {layer: [list(range(LENGTH))] * 2 for layer in few}
    texts = [reference.masked_greedy(model, ids, kept, 24).tolist() for kept in (few, everything)]
    assert texts[0] != texts[1]


def test_padding_on_the_left_changes_nothing() -> None:
    model, ids = tiny("llama", dtype=torch.float64, attention="sdpa"), prompt(LENGTH)
    padded = torch.cat([torch.zeros(1, 5, dtype=ids.dtype), ids], dim=1)
    alone = reference.capture_prompt(model, ids)
    beside = reference.capture_prompt(model, padded, (padded != 0).long())
    kept = reference.survivors(beside.captures, 24, WINDOW, num_padding=5)
    assert kept == reference.survivors(alone.captures, 24, WINDOW)
