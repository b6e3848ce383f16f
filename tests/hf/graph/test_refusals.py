"""What cannot be captured is decoded as without a graph, and one warning says why."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import lavakv
from lavakv import InputError
from lavakv.hf.contract import cache_argument
from lavakv.hf.graph import decoding
from lavakv.hf.graph.backend import CudaGraph, backends
from lavakv.hf.graph.captured import CapturedStep
from tests.hf import zoo
from tests.hf.graph.compare import NEW, assert_same_state, caches, generate, model_of
from tests.hf.graph.fake import FakeGraph
from tests.hf.helpers import lava_cache, refuses


def _warned(found: list[warnings.WarningMessage]) -> list[str]:
    return [str(warning.message) for warning in found if "without a graph" in str(warning.message)]


def _falls_back(model: nn.Module, because: str, options: dict[str, Any] | None = None, **settings: Any) -> None:
    """Two calls give the text that they give without a graph, and say once why."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(2):
            plain, graph = caches(model, **settings)
            expected, text = (
                generate(model, one, zoo.prompt(40, batch=2), **(options or {})) for one in (plain, graph)
            )
            tokens = (one if isinstance(one, torch.Tensor) else one.sequences for one in (expected, text))
            assert torch.equal(*tokens)
            assert_same_state(plain, graph)
    (message,) = _warned(found)
    assert because in message
    assert found[0].filename == __file__ or because in str(graph.decode_graph.refusal)
    assert graph.decode_graph.num_replays == 0
    assert because in str(graph.decode_graph.refusal)


@pytest.mark.parametrize(
    ("because", "settings"),
    [("dequantised at every step", {"kv_bits": 8}), ("MaskedStore", {"store": "masked"})],
)
def test_stores(because: str, settings: dict[str, Any]) -> None:
    _falls_back(model_of(head_dim=16), because, **settings)


def test_layers_that_grow_on_the_host() -> None:
    _falls_back(model_of("gemma4_text"), "DynamicLayer")


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "qwen3_next"])
def test_experts_in_a_loop(kind: str) -> None:
    """They ask the host which tokens an expert gets. Sliding windows and recurrent states are as they were before."""
    model = model_of(kind)
    model.set_experts_implementation("eager")
    _falls_back(model, "Experts waits for the device")


@pytest.mark.parametrize("name", ["output_hidden_states"])
def test_outputs_beside_the_logits(name: str) -> None:
    _falls_back(model_of(), name, {name: True, "return_dict_in_generate": True})


def test_hooks_of_the_user() -> None:
    model, printed = model_of(), []
    model.model.layers[0].mlp.register_forward_hook(lambda *_: printed.append(1))
    _falls_back(model, "a hook on LlamaMLP would not run")
    assert len(printed) == 4 * NEW


def test_a_hook_that_comes_while_decoding_runs() -> None:
    model, printed = model_of(), []
    cache = lava_cache(model)
    call = lavakv.graphed(model)
    with torch.no_grad():
        model(input_ids=zoo.prompt(40), **cache_argument(model, cache))
        for _ in range(4):
            call(input_ids=torch.tensor([[5]]), **cache_argument(model, cache))
        model.lm_head.register_forward_pre_hook(lambda *_: printed.append(1))
        with pytest.warns(UserWarning, match="hook"):
            call(input_ids=torch.tensor([[5]]), **cache_argument(model, cache))
        for _ in range(3):
            call(input_ids=torch.tensor([[5]]), **cache_argument(model, cache))
    assert (cache.decode_graph.num_replays, len(printed)) == (4, 4)


@pytest.mark.filterwarnings("ignore:lavakv. the cache holds")
def test_training_and_gradients() -> None:
    model = model_of().train()
    cache = lava_cache(model)
    with torch.no_grad():
        model(input_ids=zoo.prompt(40), **cache_argument(model, cache))
        with pytest.warns(UserWarning, match="training mode"):
            lavakv.graphed(model)(input_ids=torch.tensor([[5]]), **cache_argument(model, cache))
    model.eval()
    with pytest.warns(UserWarning, match="gradients are enabled"):
        lavakv.graphed(model)(input_ids=torch.tensor([[5]]), **cache_argument(model, cache))
    with torch.no_grad():
        lavakv.graphed(model)(input_ids=torch.tensor([[5]]), **cache_argument(model, cache))
    assert cache.decode_graph.num_replays == 1


class _Failing(FakeGraph):
    error: BaseException = RuntimeError("operation not permitted when stream is capturing")

    def capture(self, prepare: Callable[[], None], step: Callable[[], Any]) -> Any:
        prepare()
        step()
        raise self.error


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "falcon_h1"])
@pytest.mark.parametrize(
    ("error", "because"),
    [
        (
            RuntimeError("operation not permitted when stream is capturing\nmore"),
            "not permitted when stream is capturing",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), "too little free memory"),
    ],
)
def test_a_capture_that_fails(kind: str, error: Exception, because: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the step has run several times, and moved on what layers hold."""
    monkeypatch.setitem(backends, "cpu", _Failing)
    monkeypatch.setattr(_Failing, "error", error)
    _falls_back(model_of(kind), because)


def test_a_forward_that_fails_while_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-way through the layers; nothing of it stays behind."""
    model, calls = model_of(), []
    forward = type(model.model.layers[2].mlp).forward

    def failing(self: Any, *args: Any) -> Any:
        if any(calls):
            raise ValueError("no such kernel")
        return forward(self, *args)

    run = CapturedStep._run

    def running(self: CapturedStep, *args: Any) -> Any:
        calls.append(True)
        try:
            return run(self, *args)
        finally:
            calls.clear()

    monkeypatch.setattr(type(model.model.layers[2].mlp), "forward", failing)
    monkeypatch.setattr(CapturedStep, "_run", running)
    _falls_back(model, "ValueError: no such kernel")


def test_interrupted_while_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt from the keyboard goes through; the cache goes on as if the token had never been asked for."""
    model = model_of()
    plain, graph = caches(model)
    expected = generate(model, plain, zoo.prompt(40))
    with monkeypatch.context() as patch:
        patch.setitem(backends, "cpu", _Failing)
        patch.setattr(_Failing, "error", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            generate(model, graph, zoo.prompt(40))
    assert graph.get_seq_length() == 40
    with torch.no_grad():
        for ids in expected[:, 40:-1].split(1, dim=1):
            lavakv.graphed(model)(input_ids=ids, **cache_argument(model, graph))
    assert graph.decode_graph.num_replays == NEW - 1
    assert_same_state(plain, graph)


@pytest.mark.parametrize("way", ["argument", "attribute", "environment", "no backend"])
def test_turned_off(way: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    model = model_of()
    cache = lava_cache(model, graph=way != "argument")
    if way == "attribute":
        cache.graph = False
    elif way == "environment":
        monkeypatch.setenv(decoding.SWITCH, "0")
    elif way == "no backend":
        monkeypatch.delitem(backends, "cpu")
    generate(model, cache, zoo.prompt(40))
    assert (cache.decode_graph.num_captures, cache.decode_graph.refusal) == (0, None)
    assert not _warned(list(recwarn))


def test_a_few_tokens_do_not_pay(recwarn: pytest.WarningsRecorder) -> None:
    model = model_of()
    cache = lava_cache(model)
    generate(model, cache, zoo.prompt(40), max_new_tokens=decoding.MIN_STEPS - 1)
    generate(model, lava_cache(model, max_tokens_per_head=26), zoo.prompt(40))  # a round every other token
    assert cache.decode_graph.num_captures == 0
    assert not _warned(list(recwarn))


@pytest.mark.parametrize("graph", [1, None, "yes"])
def test_neither_true_nor_false(graph: Any) -> None:
    with refuses(InputError, "graph", repr(graph)):
        lava_cache(model_of(), graph=graph)


def test_masks_of_each_querys_columns() -> None:
    model = model_of()
    cache = lava_cache(model)
    mask, call = torch.ones(1, 1, 1, 41, dtype=torch.bool), lavakv.graphed(model)
    with torch.no_grad():
        model(input_ids=zoo.prompt(40), **cache_argument(model, cache))
        with pytest.warns(UserWarning, match="what each query sees"):
            call(input_ids=torch.tensor([[5]]), attention_mask=mask, **cache_argument(model, cache))
    assert cache.get_seq_length() == 41


def test_errors_are_those_of_the_model() -> None:
    """Another batch, a mask of another length: what is wrong without a graph is wrong with one."""
    model = model_of()
    cache = lava_cache(model)
    call, ids = lavakv.graphed(model), torch.tensor([[5]])
    with torch.no_grad():
        model(input_ids=zoo.prompt(40), **cache_argument(model, cache))
        call(input_ids=ids, **cache_argument(model, cache))
        with refuses(lavakv.CacheMismatchError, "input_ids"):
            call(input_ids=ids.expand(2, 1), **cache_argument(model, cache))
        with refuses(InputError, "attention_mask"):
            call(input_ids=ids, attention_mask=torch.ones(1, 30), **cache_argument(model, cache))
        call(input_ids=ids, **cache_argument(model, cache))
    assert cache.get_seq_length() == 42


def test_cuda_is_what_decodes_through_a_graph() -> None:
    assert backends["cuda"] is CudaGraph


@pytest.mark.parametrize("value", ["", "1", "false", "nonsense"])
def test_only_0_in_the_environment_turns_it_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the other switches; see docs/environment.md."""
    monkeypatch.setenv(decoding.SWITCH, value)
    model = model_of()
    cache = lava_cache(model)
    generate(model, cache, zoo.prompt(40))
    assert cache.decode_graph.num_replays == NEW - 1
