"""What the host waits for during a prefill: nothing of the newest layer, until it is the last one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lavakv
from lavakv import PolicyError
from lavakv.attention.request import AttentionSettings
from lavakv.eviction.round import Round
from lavakv.eviction.shares import SequencePlan
from lavakv.hf.projection import OutputProjection
from lavakv.hf.prompt import LayerPrompt
from lavakv.hf.rotation import LayerRotation
from lavakv.policy.registry import get_policy
from lavakv.scoring.prompt import ReplayMaxima
from lavakv.scoring.rotation import Rotation
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow
from lavakv.store.masked import MaskedStore
from lavakv.store.ragged import RaggedStore
from tests.eviction.driver import Prefill, realistic_layers
from tests.eviction.lagging import lagging
from tests.properties.test_online import prefills

HEADS, GROUP, TOKENS, DIM, LAYERS, WINDOW, BUDGET = 2, 3, 190, 4, 5, 4, 20


class _Uploads(TorchDispatchMode):
    """Counts tensors of numbers that go to the pretended device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        arrived = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_meta]
        self.count += bool(arrived) and bool(given) and not all(leaf.is_meta for leaf in given)
        return result


def _empty(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


class _PretendedProjection(OutputProjection):
    def weight(self, argument: str) -> Tensor:
        return _empty(HEADS * GROUP, DIM, 8)


class _PretendedRotation(LayerRotation):
    def of_sequence(self, *_: Any) -> Rotation:
        return Rotation(_empty(TOKENS, DIM), _empty(TOKENS, DIM), _empty(DIM // 2))


def _made_up(tensor: Tensor) -> Tensor:
    """What could have come from the device: heads in turns, falling scores, one tier, an entropy."""
    size = tensor.numel()
    if tensor.dtype == torch.int16:
        return (torch.arange(size) % HEADS).short()
    if tensor.dtype == torch.float64:
        return torch.full(tuple(tensor.shape), 0.5, dtype=torch.float64)
    return torch.zeros(size, dtype=torch.int8) if tensor.dtype == torch.int8 else torch.linspace(1, 0, size)


def _prompt() -> LayerPrompt:
    """On a pretended device: PyTorch's meta tensors have shapes but no numbers, so whoever reads one gets an error."""
    return LayerPrompt(
        _empty(2, HEADS * GROUP, TOKENS, DIM),
        _empty(2, HEADS, TOKENS, DIM),
        _empty(2, HEADS, TOKENS, DIM),
        None,
        AttentionSettings(0.5, None, None),
        lambda: _PretendedProjection(nn.Identity(), HEADS * GROUP, DIM, torch.float32, torch.device("meta")),
        _empty(2, TOKENS, 8),
        _PretendedRotation((), nn.Identity(), None, 0),
    )


@pytest.mark.parametrize("blocks", [None, 2**10])
@pytest.mark.parametrize("name", lavakv.policies())
def test_no_number_of_the_newest_layer_is_read(name: str, blocks: int | None) -> None:
    """A row that is evicted and one that keeps everything; nothing is sent to the device either before the end."""
    plans = [SequencePlan(TOKENS, 0, budget, WINDOW, get_policy(name)) for budget in (BUDGET, TOKENS)]
    stores = [RaggedStore() for _ in range(LAYERS)]
    eviction = Round(plans, stores, [HEADS] * LAYERS)
    with lagging(_made_up) as waits, _Uploads() as uploads:
        for layer, store in enumerate(stores):
            prompt, earlier = _prompt(), waits.started
            window = prompt.window(0, plans[0], None, layer)
            window = window.with_replay(ReplayMaxima(*_empty(2, HEADS, GROUP, TOKENS)))
            window = window if blocks is None else replace(window, max_block_elements=blocks)
            store.hold(prompt.keys, prompt.values)
            budgets = eviction.add_layer([window, None])
            assert (budgets is None) == (layer < LAYERS - 1)
            if budgets is None:
                assert sorted(waits.waited) == list(range(earlier)), (
                    "waits for all before, not for what this layer queued"
                )
                assert waits.started > earlier
                assert uploads.count == 0
    held = [row for store in stores for row in store.past_counts()]
    assert sum(map(sum, held)) == LAYERS * HEADS * (BUDGET + TOKENS - 2 * WINDOW)


@pytest.mark.parametrize(
    "read",
    [Tensor.item, bool, float, Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.nonzero, lambda t: t[t > 0]],
    ids=["item", "bool", "float", "tolist", "cpu", "numpy", "nonzero", "mask"],
)
def test_the_pretended_device_notices_who_reads(read: Callable[[Tensor], Any]) -> None:
    with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
        read(_empty(1))
    with _Uploads() as uploads:
        torch.ones(2).to("meta")
    assert uploads.count == 1


@settings(max_examples=30)
@given(prefills())
def test_a_device_that_lags_ends_with_the_same_survivors(prefill: Prefill) -> None:
    for store in (RaggedStore, MaskedStore):
        eviction, budgets = prefill.run(store)
        kept = _survivors(prefill)
        with lagging() as waits:
            late, others = prefill.run(store)
        assert _survivors(prefill) == kept
        for one, other in zip(budgets, others, strict=True):
            assert one.nan_to_num(-1.0).equal(other.nan_to_num(-1.0))
        assert (late.copied_entries, late.peak_entries) == (eviction.copied_entries, eviction.peak_entries)
        assert sorted(waits.waited) == list(range(waits.started)), "each number once"


def test_at_most_two_layers_are_whole_where_the_device_lags() -> None:
    prefill = Prefill("lava", realistic_layers(8, 2, 500, seed=3), [20], window=8)
    with lagging():
        eviction, _ = prefill.run(RaggedStore)
    placed = eviction.peak_entries + 8 * 2 * 8
    assert placed + 500 * 2 < prefill.most_entries <= placed + 2 * 500 * 2
    assert prefill.most_entries <= lavakv.worst_case_entries(500, 20, [2] * 8, 8, num_whole_layers=2).peak


@pytest.mark.parametrize(("layer", "at"), [(0, 1), (2, 3), (4, 4)])
@pytest.mark.parametrize("tiered", [False, True])
def test_scores_that_are_no_numbers_are_named_one_layer_later(layer: int, at: int, tiered: bool) -> None:
    def score(window: ScoringWindow) -> Tensor | TieredScores:
        values = window.mean_attention.mean(dim=1) * (math.nan if window.layer == layer else 1)
        return TieredScores(values, values > 0.5) if tiered else values

    policy = lavakv.Policy("broken", "", score)
    stores = [RaggedStore() for _ in range(LAYERS)]
    eviction = Round([SequencePlan(TOKENS, 0, BUDGET, WINDOW, policy)], stores, [HEADS] * LAYERS)
    with lagging():
        for index, store in enumerate(stores):
            keys = torch.rand(1, HEADS, TOKENS, DIM)
            store.hold(keys, keys)
            window = ScoringWindow(keys[0, :, None, -WINDOW:], [keys[0]], [keys[0]], 0.5, layer=index)
            if index < at:
                eviction.add_layer([window])
                continue
            with pytest.raises(PolicyError, match=f"'broken' at layer {layer}"):
                eviction.add_layer([window])
            break


def _survivors(prefill: Prefill) -> list[list[int]]:
    return [
        prefill.kept(layer, row, head)
        for layer, heads in enumerate(prefill.num_heads)
        for row in range(len(prefill.budgets))
        for head in range(heads)
    ]
