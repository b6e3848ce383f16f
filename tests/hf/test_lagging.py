"""A prefill whose numbers reach the host a layer late, as on a GPU: the same cache, two whole layers at a time."""

from __future__ import annotations

import pytest

import lavakv
from lavakv import PolicyError
from lavakv.budgets.worst_case import worst_case_spare
from tests.eviction.lagging import lagging
from tests.hf import zoo
from tests.hf.helpers import BUDGET, WINDOW, assert_like_new, feed, kept, lava_cache, refuses

PROMPT = 173


@pytest.mark.parametrize("policy", ["lava", "cake", "layer-defensivekv", "snapkv"])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
@pytest.mark.parametrize("size", [{"budget": BUDGET}, {"max_loss": 0.4}], ids=str)
def test_the_cache_is_the_same(kind: str, policy: str, size: dict[str, float]) -> None:
    if "max_loss" in size:
        policy = {"layer-defensivekv": "residual-max"}.get(policy, policy)  # that one scores for one budget
    model = lavakv.enable(zoo.tiny(kind))
    caches = [lava_cache(model, policy=policy, **size) for _ in range(2)]
    logits = feed(model, caches[0], [zoo.prompt(PROMPT, batch=2), zoo.prompt(1, batch=2)])
    with lagging() as waits:
        late = feed(model, caches[1], [zoo.prompt(PROMPT, batch=2), zoo.prompt(1, batch=2)])
    assert waits.started == len(waits.waited) > 0
    assert late.equal(logits)
    assert kept(caches[1]) == kept(caches[0])
    assert caches[1].nbytes == caches[0].nbytes
    for one, other in zip(caches[0].budgets(), caches[1].budgets(), strict=True):
        assert one.equal(other)


def test_at_most_two_layers_are_whole() -> None:
    model = lavakv.enable(zoo.tiny("llama", num_hidden_layers=8))
    entry, held = 2 * 8 * 4, list[int]()

    class Watched(lavakv.LavaCache):
        def update(self, *args: object, **kwargs: object) -> object:
            held.append(self.nbytes // entry + PROMPT * 2)  # and the layer that is just coming
            return super().update(*args, **kwargs)

    cache = Watched(model.config, budget=BUDGET, window=WINDOW)
    with lagging():
        feed(model, cache, [zoo.prompt(PROMPT)])
    assert len(held) == 8
    final = cache.nbytes // entry
    assert 2 * PROMPT * 2 < max(held) <= 1.25 * final + 8 * worst_case_spare(2) + 2 * PROMPT * 2
    assert max(held) <= lavakv.worst_case_entries(PROMPT, BUDGET, [2] * 8, WINDOW, num_whole_layers=2).peak


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_model_whose_values_are_not_numbers(layer: int) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    weight = model.model.layers[layer].self_attn.v_proj.weight
    sound = weight.detach().clone()
    weight.data[0, 0] = float("nan")
    cache = lava_cache(model)
    with lagging(), refuses(PolicyError, f"'lava' at layer {layer}"):
        feed(model, cache, [zoo.prompt(40)])
    assert cache.get_seq_length() == 0
    assert cache.nbytes == 0
    weight.data.copy_(sound)
    assert_like_new(model, cache, lava_cache(model))
