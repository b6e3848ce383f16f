"""Every policy on a padded batch of tiny models, softcaps and sinks among them, against the reference."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import lavakv
from lavakv import UnsupportedError
from lavakv.policy.chunked import chunked
from lavakv.policy.registry import get_policy
from lavakv.policy.rules import Policy
from tests.hf.zoo import prompt, tiny
from tests.oracle import family, reference
from tests.oracle.family_neighbours import in_chunks
from tests.oracle.family_view import View
from tests.oracle.repetition import capture_twice

WINDOW, LENGTH, PADDING = 8, 85, 5
PARTITIONS = 420  # two partitions are scored
LONG = 233  # has rows far behind an entry
POLICIES = sorted(set(family.POLICIES) - {"knorm"})  # a token's copies have keys of one length; tests/real has it
PLAIN_SOFTMAX = ("expected-attention", "compactor")  # their formulas have neither softcaps nor sinks


@dataclass
class Batch:
    """Two sequences, the first one padded, and what each layer saw of them."""

    model: torch.nn.Module
    ids: torch.Tensor
    mask: torch.Tensor
    sequences: list[list[View]]


@pytest.fixture(scope="module", params=["llama", "gemma2", "gpt_oss"])
def batch(request: pytest.FixtureRequest) -> Batch:
    return _batch(request.param, LENGTH)


def _batch(kind: str, length: int) -> Batch:
    model = tiny(kind, attention="sdpa" if kind == "llama" else "eager")
    padding = torch.zeros(1, PADDING, dtype=torch.int64)
    ids = torch.cat([torch.cat([padding, prompt(length - PADDING)], dim=1), prompt(length, seed=3)])
    mask = (ids != 0).long()
    captures = capture_twice(model, ids, mask).captures
    columns = enumerate([PADDING, 0])
    views = [family.views(captures, WINDOW, sequence=row, num_padding=padding) for row, padding in columns]
    return Batch(model, ids, mask, views)


@pytest.mark.parametrize("budget", [10, 24])
@pytest.mark.parametrize("policy", POLICIES)
def test_survivors(batch: Batch, policy: str, budget: int) -> None:
    if policy in PLAIN_SOFTMAX and batch.model.config.model_type != "llama":
        with pytest.raises(UnsupportedError, match=f"policy '{policy}' (on model|at layer)"):
            _assert_survivors(batch, policy, budget)
    else:
        _assert_survivors(batch, policy, budget)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt_oss"])
def test_survivors_that_rows_far_behind_decide(kind: str) -> None:
    batch = _batch(kind, LONG)
    for layers in batch.sequences:
        near, far = (family.survivors(layers, policy, 40) for policy in ("residual", "residual-far"))
        assert near != far
    _assert_survivors(batch, "residual-far", 40)


@pytest.mark.parametrize("window", [3, 12])
@pytest.mark.parametrize("policy", ["caote", "dropkv"])
def test_survivors_by_another_number_of_rows(policy: str, window: int) -> None:
    """`dropkv` looks at eight of them at most."""
    model, ids = tiny("llama", attention="sdpa"), prompt(LENGTH)
    layers = family.views(reference.capture_prompt(model, ids).captures, window)
    cache = lavakv.LavaCache(model.config, budget=24, policy=policy, window=window)
    with lavakv.enabled(model), torch.no_grad():
        model(ids, past_key_values=cache)
    kept = [[cache.kept_positions(layer, 0, head).tolist() for head in range(2)] for layer in cache.layer_indices]
    assert kept == family.survivors(layers, policy, 24)


def _assert_survivors(batch: Batch, policy: str | Policy, budget: int) -> None:
    cache = lavakv.LavaCache(batch.model.config, budget=budget, policy=policy, window=WINDOW)
    with lavakv.enabled(batch.model), torch.no_grad():
        batch.model(batch.ids, attention_mask=batch.mask, past_key_values=cache)
    for sequence, layers in enumerate(batch.sequences):
        kept = [
            [cache.kept_positions(layer, sequence, head).tolist() for head in range(2)] for layer in cache.layer_indices
        ]
        assert kept == family.survivors(layers, policy if isinstance(policy, str) else policy.name, budget)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt_oss"])
def test_survivors_of_partitions_of_128(kind: str) -> None:
    batch = _batch(kind, PARTITIONS)
    for layers in batch.sequences:
        assert family.survivors(layers, "lagkv", 200) != family.survivors(layers, "streaming-llm", 200)
    _assert_survivors(batch, "lagkv", 200)


@pytest.mark.parametrize("name", ["lava", "ada-pyramidkv", "vatp", "residual", "curdkv"])
def test_survivors_in_chunks(batch: Batch, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, rules = chunked(get_policy(name), 6), family.POLICIES[name]
    heads = rules.heads if rules.heads == "one pool" else "equal"
    inside = family.Rules(in_chunks(rules.score, 6), heads, rules.layers)
    monkeypatch.setitem(family.POLICIES, policy.name, inside)
    _assert_survivors(batch, policy, 30)


@pytest.mark.parametrize("budget", [18, 29, 60])
def test_a_head_that_sees_only_itself_has_its_guarantee(budget: int) -> None:
    """Attention of one head lies in the window, so that in one pool it wins nothing beyond its guaranteed tenth."""
    model, ids = tiny("qwen2", attention="sdpa"), prompt(80)
    layer = model.model.layers[1].self_attn
    with torch.no_grad():
        layer.q_proj.bias[:16] = layer.k_proj.bias[:8] = 24.0  # the rotation alone tells positions apart
    views = family.views(reference.capture_prompt(model, ids).captures, WINDOW)
    cache = lavakv.LavaCache(model.config, budget=budget, policy="layer-defensivekv", window=WINDOW)
    with lavakv.enabled(model), torch.no_grad():
        model(ids, past_key_values=cache)
    kept = [[cache.kept_positions(layer, 0, head).tolist() for head in range(2)] for layer in range(3)]
    assert len(kept[1][0]) == WINDOW + (budget - WINDOW) // 10
    assert kept == family.survivors(views, "layer-defensivekv", budget)
