"""Layers compiled inside a captured step: one graph for layers alike, without a break, and the same text."""

from __future__ import annotations

import gc
import shutil
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CompileConfig

import lavakv
from lavakv.hf.contract import cache_argument
from lavakv.hf.graph import backend, compiled
from lavakv.hf.graph.backend import DeviceGraph
from tests.hf import zoo
from tests.hf.generation import generate
from tests.hf.graph.fake import FakeGraph
from tests.hf.helpers import kept, lava_cache


class RepeatedCall(DeviceGraph):
    """A graph that calls the step again: what a compiled layer does cannot be recorded on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def capture(self, prepare: Callable[[], None], step: Callable[[], Any]) -> Any:
        prepare()
        self._step, self._result = step, step()
        return self._result

    def wait(self) -> None:
        """Nothing runs by itself on a CPU."""

    def replay(self) -> None:
        with torch.no_grad():
            again = self._step()
        for name, tensor in self._result.tensors.items():
            tensor.copy_(again.tensors[name])


class Counting:
    """A backend that runs graphs as they are traced, and counts them."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, _examples: Any) -> Any:
        self.graphs.append(graph)
        return graph.forward

    def __deepcopy__(self, _memo: Any) -> Counting:  # `compile_config` copies its settings
        return self

    @property
    def config(self) -> CompileConfig:
        """Settings that allow no break in a graph."""
        return CompileConfig(backend=self, fullgraph=True)


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(backend.backends, "cpu", RepeatedCall)
    monkeypatch.setattr(compiled, "_warned", set())
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="lavakv")
        yield
    torch._dynamo.reset()


def _model(kind: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    model = zoo.tiny(kind, dtype, attention="eager" if kind in ("gemma2", "gpt_oss") else "sdpa")
    if kind == "gpt_oss":
        model.set_experts_implementation("batched_mm")  # its loop over experts waits for the device
    return lavakv.enable(model)


def _answer(model: nn.Module, ids: Tensor, *, graph: bool = True, **options: Any) -> tuple[Any, tuple[Tensor, Tensor]]:
    cache = lava_cache(model, max_new_tokens=20, graph=graph)
    return cache, generate(model, cache, ids, **options)


@pytest.mark.parametrize(
    ("kind", "num_graphs", "padding"),
    [
        ("llama", 1, 0),
        ("llama", 1, 13),
        ("gemma2", 2, 0),
        ("gpt_oss", 2, 0),
        ("gpt_oss", 2, 13),
        ("qwen3", 1, 0),
        ("gpt_neox", 1, 0),
        ("gpt2", 1, 13),
        ("smollm3", 2, 13),
    ],
)
def test_layers_alike_share_one_graph_and_the_text_stays(kind: str, num_graphs: int, padding: int) -> None:
    model, ids, counting = _model(kind), zoo.prompt(40, batch=2), Counting()
    mask = torch.ones_like(ids)
    mask[0, :padding] = 0
    _, expected = _answer(model, ids, graph=False, attention_mask=mask)
    cache, found = _answer(model, ids, attention_mask=mask, compile_config=counting.config)
    assert cache.decode_graph.num_captures == 1
    assert cache.decode_graph.num_replays > 10
    assert found[0].equal(expected[0])
    assert torch.allclose(found[1], expected[1], rtol=1e-6, atol=1e-6)
    assert len(counting.graphs) == num_graphs
    compressed = [graph for graph in counting.graphs if "lavakv.append_and_attend" in str(graph.graph)]
    assert len(compressed) == num_graphs - (kind in ("gemma2", "gpt_oss"))  # sliding layers hold no ragged past
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_further_calls_with_other_prompts_and_budgets_compile_nothing() -> None:
    model, counting = _model("llama"), Counting()
    for length, budget in ((40, 24), (61, 30), (55, 12)):
        ids = zoo.prompt(length, batch=2, seed=length)
        answers = []
        for graph in (True, False):
            cache = lavakv.LavaCache(model.config, budget=budget, window=8, max_new_tokens=20, graph=graph)
            answers.append(generate(model, cache, ids, compile_config=counting.config if graph else None)[0])
        assert answers[0].equal(answers[1])
    assert len(counting.graphs) == 1


def test_a_later_round_reads_the_queries_of_compiled_steps() -> None:
    model, ids, found = _model("llama"), zoo.prompt(40, batch=2), []
    for graph in (True, False):
        cache = lava_cache(model, max_new_tokens=60, graph=graph, evict="turns")
        config = Counting().config if graph else None
        sequences, _ = generate(model, cache, ids, compile_config=config)
        longer = torch.cat([sequences, zoo.prompt(30, batch=2, seed=5)], dim=1)
        answer, _ = generate(model, cache, longer, compile_config=config)
        found.append((answer.tolist(), kept(cache)))
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_inductor_computes_as_exactly_as_pytorch(kind: str) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("needs a C++ compiler")
    ids = zoo.prompt(40, batch=2)
    _, exact = _answer(_model(kind), ids, graph=False)
    model = _model(kind, torch.float32)
    _, plain = _answer(model, ids, graph=False)
    cache, found = _answer(model, ids, compile_config=CompileConfig(fullgraph=True))
    assert cache.decode_graph.num_captures == 1
    assert found[0].equal(exact[0])
    assert _error(found[1], exact[1]) <= 2 * _error(plain[1], exact[1])


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact.double()).square().mean().sqrt())


def test_layers_that_do_not_compile_run_as_they_are_and_it_says_why() -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no compiler here")

    model, ids = _model("llama"), zoo.prompt(40, batch=2)
    _, expected = _answer(model, ids, graph=False)
    with pytest.warns(UserWarning, match=r"without `compile_config`.*no compiler here"):
        cache, found = _answer(model, ids, compile_config=CompileConfig(backend=broken))
    assert found[0].equal(expected[0])
    assert cache.decode_graph.num_captures == 1
    assert cache.decode_graph.refusal is None


@pytest.mark.parametrize("options", [{}, {"disable_compile": True}], ids=["no settings", "switched off"])
def test_nothing_is_compiled_that_nobody_asked_for(options: dict[str, Any]) -> None:
    model, counting = _model("llama"), Counting()
    if options:
        options["compile_config"] = counting.config
    cache, _ = _answer(model, zoo.prompt(40), **options)
    assert cache.decode_graph.num_captures == 1
    assert counting.graphs == []
    assert torch._dynamo.utils.counters["stats"].get("unique_graphs", 0) == 0


def test_a_graph_of_ours_needs_none_of_the_compiler_s() -> None:
    assert compiled._arguments(CompileConfig().to_dict())["mode"] == "default"
    assert compiled._arguments(CompileConfig(mode="max-autotune").to_dict())["mode"] == "max-autotune-no-cudagraphs"
    given = compiled._arguments({**CompileConfig().to_dict(), "options": {"epilogue_fusion": True}})
    assert given["options"] == {"epilogue_fusion": True, "triton.cudagraphs": False}
    assert "mode" not in given


def test_other_settings_are_captured_again() -> None:
    model, ids, counting = _model("llama"), zoo.prompt(40), Counting()
    cache = lava_cache(model, max_new_tokens=60)
    sequences, _ = generate(model, cache, ids, compile_config=counting.config)
    longer = torch.cat([sequences, zoo.prompt(1, seed=5)], dim=1)
    generate(model, cache, longer)
    assert cache.decode_graph.num_captures == 2


def test_the_operator_is_part_of_what_a_graph_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a recording is under way PyTorch runs compiled functions as they are: here each operator is recorded."""
    monkeypatch.setitem(backend.backends, "cpu", FakeGraph)
    model, ids = _model("llama"), zoo.prompt(40, batch=2)
    _, expected = _answer(model, ids, graph=False)
    cache, found = _answer(model, ids, compile_config=CompileConfig(backend="eager"))
    assert cache.decode_graph.num_captures == 1
    assert found[0].equal(expected[0])
    assert torch.allclose(found[1], expected[1], rtol=1e-6, atol=1e-6)


def test_a_cache_is_freed_whose_step_was_compiled() -> None:
    model = _model("llama")
    cache, _ = _answer(model, zoo.prompt(40), compile_config=Counting().config)
    store = cache.layers[0].store
    alive = [weakref.ref(part) for part in (cache, store, store.past, store.tail.buffers[0])]
    del cache, store
    gc.collect()
    assert [one() for one in alive] == [None] * 4


def test_a_loop_of_one_s_own_in_inference_mode() -> None:
    model, ids, counting = _model("llama"), zoo.prompt(40, batch=2), Counting()
    found = []
    for call in (model, lavakv.graphed(model, compile_config=counting.config)):
        cache, new, logits = lava_cache(model, max_new_tokens=20), ids, []
        with torch.inference_mode():
            for _ in range(12):
                logits.append(call(input_ids=new, **cache_argument(model, cache)).logits[:, -1:])
                new = logits[-1].argmax(-1)
        found.append(torch.cat(logits, dim=1))
    assert cache.decode_graph.num_replays == 11
    assert len(counting.graphs) == 1
    assert torch.allclose(found[1], found[0], rtol=1e-9, atol=1e-9)
