"""What happens to a cache between captured steps: turns, rounds, rows, files; and when it is freed."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lavakv
from lavakv.hf.contract import cache_argument
from lavakv.hf.graph import decoding
from tests.hf import zoo
from tests.hf.graph.compare import NEW, assert_same_state, caches, generate, left_padded, model_of
from tests.hf.helpers import lava_cache


def decode(model: nn.Module, cache: lavakv.LavaCache, ids: Tensor, steps: int, **arguments: Any) -> Tensor:
    """Logits of greedy steps in a loop of one's own, from new ids `[B, 1]` on."""
    call, logits = lavakv.graphed(model), []
    with torch.no_grad():
        for _ in range(steps):
            logits.append(call(input_ids=ids, **cache_argument(model, cache), **arguments).logits[:, -1])
            ids = logits[-1].argmax(-1, keepdim=True)
    return torch.stack(logits, dim=1)


def prefill(model: nn.Module, cache: lavakv.LavaCache, ids: Tensor) -> None:
    with torch.no_grad():
        model(input_ids=ids, **cache_argument(model, cache))


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "falcon_h1"])
def test_a_second_turn_and_a_third(kind: str) -> None:
    """Between them the tail goes on without a graph. Where it fits, the step that was captured first goes on, too."""
    model, texts = model_of(kind), []
    for cache in caches(model):
        text = zoo.prompt(40)
        for turn in range(3):
            text = generate(model, cache, text)
            text = torch.cat([text, zoo.prompt(5, seed=turn)], dim=1)
        texts.append(text)
    assert texts[0].equal(texts[1])
    assert cache.decode_graph.num_replays == 3 * (NEW - 1)
    assert 1 <= cache.decode_graph.num_captures <= 3


def test_a_loop_of_ones_own() -> None:
    """With and without positions and masks; padding that comes later is hidden."""
    model, ids = model_of(), zoo.prompt(40, batch=2)
    found = []
    for cache in caches(model):
        prefill(model, cache, ids)
        found.append(decode(model, cache, ids[:, :1], 20))
    assert torch.allclose(*found, rtol=0, atol=1e-9)
    assert cache.decode_graph.num_replays == 20


def test_masks_that_change_from_step_to_step() -> None:
    """A mask may hide other columns at every step, those that are evicted as well."""
    model, ids = model_of(), zoo.prompt(40, batch=2)
    found = []
    for cache in caches(model):
        prefill(model, cache, ids)
        call, logits = lavakv.graphed(model), []
        for step in range(12):
            mask = torch.ones(2, 41 + step, dtype=torch.long)
            mask[step % 2, 3 * step : 3 * step + 4] = 0
            position = torch.full((2, 1), 40 + step)
            with torch.no_grad():
                output = call(
                    input_ids=ids[:, step : step + 1], attention_mask=mask, position_ids=position,
                    **cache_argument(model, cache),
                )  # fmt: skip
            logits.append(output.logits)
        found.append(torch.cat(logits, dim=1))
    assert torch.allclose(*found, rtol=0, atol=1e-9)
    assert cache.decode_graph.num_replays == 12


def test_capacity_that_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_MAX_COLUMNS_AHEAD", 10)
    model, texts = model_of(), []
    for cache in caches(model):
        texts.append(generate(model, cache, zoo.prompt(40), max_new_tokens=60))
    assert texts[0].equal(texts[1])
    assert cache.decode_graph.num_replays == 59
    assert 2 <= cache.decode_graph.num_captures < 6


@pytest.mark.parametrize(
    ("kind", "policy"),
    [*(("llama", policy) for policy in ("lava", "residual", "criticalkv", "streaming-llm")), ("olmo2", "residual")],
)
def test_rounds_while_decoding(kind: str, policy: str) -> None:
    """A round between replays is judged by the queries of replayed steps, and the step is captured again after it."""
    model = model_of(kind)
    plain, graph = caches(model, policy=policy, max_tokens_per_head=44)
    expected = generate(model, plain, zoo.prompt(40, batch=2), max_new_tokens=70)
    assert generate(model, graph, zoo.prompt(40, batch=2), max_new_tokens=70).equal(expected)
    assert_same_state(plain, graph)
    assert graph.decode_graph.num_captures > 2
    assert graph.decode_graph.num_replays > 60
    for layer in graph.layer_indices:
        assert all(graph.kept_positions(layer, 0, h).equal(plain.kept_positions(layer, 0, h)) for h in range(2))


@pytest.mark.parametrize("padded", [False, True])
def test_rounds_after_turns(padded: bool) -> None:
    model, found = model_of(), []
    for cache in caches(model, evict="turns"):
        mask = left_padded(2, 40) if padded else torch.ones(2, 40, dtype=torch.long)
        text = generate(model, cache, zoo.prompt(40, batch=2), attention_mask=mask)
        mask = torch.cat([mask, torch.ones(2, NEW + 6, dtype=torch.long)], dim=1)
        text = torch.cat([text, zoo.prompt(6, batch=2, seed=4)], dim=1)
        found.append(generate(model, cache, text, attention_mask=mask))
    assert found[0].equal(found[1])
    assert cache.decode_graph.num_captures == 2


def test_compress_judges_by_replayed_tokens() -> None:
    model = model_of()
    pair = caches(model)
    for cache in pair:
        generate(model, cache, zoo.prompt(40))
        cache.compress()
    assert_same_state(*pair)


@pytest.mark.parametrize("change", ["crop", "select", "expand", "rewind", "deepcopy", "pickle", "save"])
def test_changes_between_replays(change: str, tmp_path: Path) -> None:
    model, ids = model_of(), zoo.prompt(40, batch=2)
    found = []
    for cache in caches(model):
        prefill(model, cache, ids)
        decode(model, cache, ids[:, :1], 9)
        captures = cache.decode_graph.num_captures
        cache, tokens = _changed(change, cache, model, tmp_path), ids[:, 3:4]
        tokens = tokens[: cache.batch_size] if cache.batch_size <= 2 else tokens.repeat_interleave(2, 0)
        found.append((decode(model, cache, tokens, 9), cache))
        assert cache.decode_graph.num_captures <= captures + 1
    (expected, plain), (logits, graph) = found
    assert torch.allclose(logits, expected, rtol=0, atol=1e-9)
    assert_same_state(plain, graph)
    assert graph.decode_graph.num_replays >= 9


def _changed(change: str, cache: lavakv.LavaCache, model: nn.Module, folder: Path) -> lavakv.LavaCache:
    if change == "crop":
        cache.crop(-4)
    elif change == "select":
        cache.select([1])
    elif change == "expand":
        cache.expand(2)
    elif change == "rewind":
        mark = cache.mark()
        decode(model, cache, torch.tensor([[5], [6]]), 3)
        cache.rewind(mark)
    elif change == "deepcopy":
        return copy.deepcopy(cache)
    elif change == "pickle":
        return pickle.loads(pickle.dumps(cache))
    else:
        graph = cache.graph
        cache.save(folder / "context.safetensors")
        cache = lavakv.LavaCache.load(folder / "context.safetensors", model)
        cache.graph = graph
    return cache


def test_reset_frees_the_step() -> None:
    model = model_of()
    graph = lava_cache(model)
    first = generate(model, graph, zoo.prompt(40))
    graph.reset()
    assert graph.decode_graph.captured is None
    assert generate(model, graph, zoo.prompt(40)).equal(first)
    assert graph.decode_graph.num_captures == 2


@pytest.mark.parametrize("change", ["weights in place", "other weights", "dtype and back", "hook"])
def test_a_changed_model_is_noticed(change: str) -> None:
    """Weights that are written in place are read by the next replay; all else is captured again or refused."""
    model, found = model_of(), []
    for cache in caches(model):
        model = model_of()
        prefill(model, cache, zoo.prompt(40))
        decode(model, cache, torch.tensor([[5]]), 4)
        layer = model.model.layers[1].mlp.down_proj
        if change == "weights in place":
            with torch.no_grad():
                layer.weight.mul_(-1.5)
        elif change == "other weights":
            layer.weight = nn.Parameter(layer.weight.detach() * -1.5)
        elif change == "dtype and back":
            model.half().double()
        else:
            layer.register_forward_hook(lambda _module, _args, output: -output)
        found.append(decode(model, cache, torch.tensor([[6]]), 4))
    assert torch.allclose(*found, rtol=0, atol=1e-9)
    captures = {"weights in place": 1, "other weights": 2, "dtype and back": 2, "hook": 1}[change]
    assert cache.decode_graph.num_captures == captures
    assert (cache.decode_graph.refusal is not None) == (change == "hook")


@pytest.mark.parametrize("change", ["another head", "a bias", "a part in training mode", "disabled and enabled"])
def test_parts_of_the_model_that_are_replaced(change: str) -> None:
    """Nobody asks for a new callable: modules, weights that were not there, a mode."""
    found = []
    for graph in (False, True):
        model = model_of()
        cache = lava_cache(model, graph=graph)
        prefill(model, cache, zoo.prompt(40))
        decode(model, cache, torch.tensor([[5]]), 4)
        call = lavakv.graphed(model)
        query = model.model.layers[0].self_attn.q_proj
        if change == "another head":
            model.lm_head = copy.deepcopy(model.lm_head)
            model.lm_head.weight.data.mul_(-1.5)
        elif change == "a bias":
            query.bias = nn.Parameter(torch.linspace(-1, 1, query.out_features, dtype=torch.float64))
        elif change == "a part in training mode":
            query.train()
        else:  # the new watch must not number what it sees as the old one did
            lavakv.disable(model)
            query.weight = nn.Parameter(query.weight.detach() * -1.5)
            call = lavakv.graphed(lavakv.enable(model))
        with torch.no_grad():
            found.append(call(input_ids=torch.tensor([[6]]), **cache_argument(model, cache)).logits)
    assert torch.allclose(*found, rtol=0, atol=1e-9)
    assert cache.decode_graph.num_captures == (1 if "training" in change else 2)


def test_captured_in_inference_mode_and_replayed_outside_and_back() -> None:
    model, found = model_of(), []
    for cache in caches(model):
        prefill(model, cache, zoo.prompt(40))
        call, logits = lavakv.graphed(model), []
        for step in range(9):
            ids = torch.tensor([[step]])
            with torch.inference_mode(step % 6 < 3), torch.no_grad():
                logits.append(call(input_ids=ids, **cache_argument(model, cache)).logits.clone())
        found.append(torch.cat(logits))
    assert torch.allclose(*found, rtol=0, atol=1e-9)
    assert (cache.decode_graph.num_captures, cache.decode_graph.num_replays) == (1, 9)


def test_another_model_is_refused_as_without_a_graph() -> None:
    """The cache of one model is not that of another, though all its shapes are the same."""
    model, other = model_of(), model_of()
    cache = lava_cache(model)
    prefill(model, cache, zoo.prompt(40))
    decode(model, cache, torch.tensor([[5]]), 4)
    with pytest.warns(UserWarning, match="CacheMismatchError"), pytest.raises(lavakv.CacheMismatchError):
        decode(other, cache, torch.tensor([[5]]), 1)
    decode(model, cache, torch.tensor([[5]]), 4)
    assert cache.decode_graph.num_replays == 8


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_between_replays(kind: str) -> None:
    """Put on, switched off, switched over, scaled, merged and taken off while one text is decoded."""
    adapters = pytest.importorskip("tests.hf.peft_models")
    found = []
    for graph in (False, True):
        model = model_of()
        cache = lava_cache(model, graph=graph)
        call, logits = lavakv.graphed(model), []

        def more(call: Any = call, model: Any = model, cache: Any = cache, logits: Any = logits) -> None:
            for number in range(3):
                with torch.no_grad():
                    logits.append(call(input_ids=torch.tensor([[number]]), **cache_argument(model, cache)).logits)

        prefill(model, cache, zoo.prompt(40))
        more()
        wrapped = adapters.peft.get_peft_model(model, adapters.CONFIGS[kind]())
        wrapped.add_adapter("other", adapters.CONFIGS[kind]())
        wrapped.double()
        adapters.trained(wrapped, 1)
        more()
        with wrapped.disable_adapter():
            more()
        more()
        wrapped.set_adapter("other")
        adapters.trained(wrapped, 2)
        more()
        layer = model.model.layers[0].self_attn.q_proj
        layer.set_scale("other", 3.0)
        more()
        wrapped.merge_adapter()
        more()
        wrapped.unmerge_adapter()
        more()
        wrapped.unload()
        more()
        found.append(torch.cat(logits))
    assert torch.allclose(*found, rtol=0, atol=1e-9)
    assert cache.decode_graph.num_replays == 27


def test_nothing_outlives_the_cache_or_the_model() -> None:
    model = model_of()
    cache = lava_cache(model)
    generate(model, cache, zoo.prompt(40))
    assert cache.decode_graph.num_replays
    held = weakref.ref(cache.decode_graph.captured)
    gone, weights = weakref.ref(cache), weakref.ref(model.lm_head)
    gc.disable()
    try:
        del cache
        assert gone() is None, "a reference cycle keeps the memory of a cache"
        assert held() is None
    finally:
        gc.enable()
    cache = lava_cache(model)
    generate(model, cache, zoo.prompt(40))
    del model
    gc.collect()
    assert weights() is None, "a captured step keeps the weights"
    assert cache.decode_graph.captured is not None


def test_disabling_the_model_leaves_a_cache_that_can_go_on() -> None:
    model = model_of()
    cache = lava_cache(model)
    text = generate(model, cache, zoo.prompt(40))
    lavakv.disable(model)
    with pytest.raises(lavakv.NotEnabledError):
        lavakv.graphed(model)
    lavakv.enable(model)
    again = lava_cache(model, graph=False)
    expected = generate(model, again, zoo.prompt(40))
    assert text.equal(expected)
    more = torch.cat([text, zoo.prompt(3)], dim=1)
    assert generate(model, cache, more).equal(generate(model, again, more))
