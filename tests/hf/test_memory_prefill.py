"""What is allocated while the prompt runs through the layers, and when a cache is dropped."""

from __future__ import annotations

import weakref

import pytest
from torch import Tensor

import lavakv
from lavakv.budgets.worst_case import SLACK, worst_case_spare
from tests.hf import zoo
from tests.hf.helpers import BUDGET, WINDOW, feed, lava_cache, split

PROMPT = 173


@pytest.mark.parametrize("batch", [1, 3])
def test_only_one_layer_is_whole_at_a_time_during_the_prefill(batch: int) -> None:
    model = lavakv.enable(zoo.tiny("llama", num_hidden_layers=12))
    alive: list[weakref.ref[Tensor]] = []
    peaks: list[int] = []

    class Watched(lavakv.LavaCache):
        def update(self, key_states: Tensor, *args: object, **kwargs: object) -> object:
            alive.append(weakref.ref(key_states))
            peaks.append(sum(reference() is not None for reference in alive))
            return super().update(key_states, *args, **kwargs)

    cache = Watched(model.config, budget=BUDGET, window=WINDOW)
    feed(model, cache, [zoo.prompt(PROMPT, batch=batch)])
    assert len(peaks) == 12
    assert max(peaks) == 1
    assert sum(reference() is not None for reference in alive) == 0


@pytest.mark.parametrize("keep", [0.1, 0.3])
def test_allocation_stays_under_the_promised_bound_during_the_prefill(keep: float) -> None:
    """Bytes of all stores at every layer: 1.25 times the budget, windows, rounding spares and one whole layer."""
    model = lavakv.enable(zoo.tiny("llama", num_hidden_layers=12))
    held: list[int] = []

    class Watched(lavakv.LavaCache):
        def update(self, *args: object, **kwargs: object) -> object:
            held.append(self.nbytes)
            return super().update(*args, **kwargs)

    cache = Watched(model.config, keep=keep, window=WINDOW)
    feed(model, cache, [zoo.prompt(PROMPT)])
    heads, entry = 12 * 2, 2 * 8 * 4
    budget = cache.lengths().sum().item() // heads
    spare = 12 * worst_case_spare(2)
    entries = SLACK * (budget - WINDOW) * heads + WINDOW * heads + spare + PROMPT * 2
    assert max(held) <= entries * entry
    assert cache.nbytes == budget * heads * entry


def test_eviction_leaves_nothing_of_a_dropped_cache() -> None:
    model = lavakv.enable(zoo.tiny("gemma3_text"))
    cache = lava_cache(model)
    feed(model, cache, split(zoo.prompt(PROMPT + 2), [PROMPT, 1, 1]))
    past = weakref.ref(cache.layers[1].store.past.keys)
    del cache
    assert past() is None, "a reference cycle keeps a cache's memory until the collector runs"
