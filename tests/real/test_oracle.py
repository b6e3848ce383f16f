"""lavakv on a real model against the reference: the same survivors, the same text."""

from __future__ import annotations

import pytest
import torch

import lavakv
from lavakv.hf.contract import cache_argument
from tests.hf.helpers import typical
from tests.oracle import reference
from tests.real.conftest import Document

NUM_NEW_TOKENS = 64


def held_positions(cache: lavakv.LavaCache, num_heads: int = 3) -> dict[int, list[list[int]]]:
    """Positions that a cache holds, by layer and head."""
    return {
        layer: [cache.kept_positions(layer, 0, head).tolist() for head in range(num_heads)]
        for layer in cache.layer_indices
    }


def differences(kept: dict[int, list[list[int]]], expected: dict[int, list[list[int]]]) -> list[tuple]:
    """Every (layer, head, only kept, only expected) where two sets of survivors differ."""
    assert kept.keys() == expected.keys()
    return [
        (layer, head, sorted(set(mine) - set(theirs)), sorted(set(theirs) - set(mine)))
        for layer in expected
        for head, (mine, theirs) in enumerate(zip(kept[layer], expected[layer], strict=True))
        if mine != theirs
    ]


@pytest.mark.parametrize("budget", [64, 256, 1024])
def test_survivors_and_greedy_text(model, document: Document, budget: int) -> None:
    ids, length = document.ids, document.ids.shape[1]
    assert length > budget
    expected = reference.survivors(document.prompt.captures, budget)
    cache = lavakv.LavaCache(model.config, budget=budget)
    with lavakv.enabled(model):
        written = model.generate(ids, past_key_values=cache, max_new_tokens=NUM_NEW_TOKENS, do_sample=False)
    new = list(range(length, length + NUM_NEW_TOKENS - 1))  # the last token was never fed
    with_new = {layer: [positions + new for positions in heads] for layer, heads in expected.items()}
    assert differences(held_positions(cache), with_new) == []
    text = reference.masked_greedy(model, ids, expected, NUM_NEW_TOKENS, document.prompt)
    assert written[:, length:].tolist() == text.tolist()


@pytest.mark.parametrize("document", ["docstrings"], indirect=True)
@pytest.mark.parametrize(
    ("policy", "rules"),
    [
        ("lava-uniform-layers", {"layer_rule": "equal"}),
        ("lava-uniform-heads", {"head_rule": "equal"}),
    ],
)
def test_survivors_of_simpler_rules(model, document: Document, policy: str, rules: dict[str, str]) -> None:
    cache = lavakv.LavaCache(model.config, budget=128, policy=policy)
    with lavakv.enabled(model), torch.no_grad():
        model(document.ids, past_key_values=cache, logits_to_keep=1)
    assert differences(held_positions(cache), reference.survivors(document.prompt.captures, 128, **rules)) == []
    assert int(cache.lengths().sum()) == 128 * cache.lengths().numel()


@pytest.mark.parametrize("document", ["docstrings"], indirect=True)
def test_survivors_in_fewer_bits_are_those_of_the_masked_store(model, document: Document) -> None:
    """The same positions, and logits no further apart than those of both stores without bits, twice over."""
    ids, following = document.ids[:, :700], document.ids[:, 700:716]
    differences_by_bits = {}
    for bits in (None, 8, 4):
        caches = [lavakv.LavaCache(model.config, budget=128, store=s, kv_bits=bits) for s in ("ragged", "masked")]
        logits = []
        for cache in caches:
            with lavakv.enabled(model), torch.no_grad():
                model(ids, **cache_argument(model, cache), logits_to_keep=1)
                logits.append(model(following, **cache_argument(model, cache)).logits)
        assert differences(*map(held_positions, caches)) == []
        assert logits[0].argmax(-1).equal(logits[1].argmax(-1))
        differences_by_bits[bits] = typical(*logits)
    assert max(differences_by_bits[8], differences_by_bits[4]) <= 2 * differences_by_bits[None]
