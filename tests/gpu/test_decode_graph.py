"""`generate` through a CUDA graph: its text is the one without, memory, time of a capture, and what falls back."""

from __future__ import annotations

import gc
import os
import sys
import time
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import lavakv
from lavakv.hf.contract import cache_argument
from lavakv.hf.graph import refusal
from lavakv.models.default import fetched_model_dir
from tests.hf import zoo
from tests.hf.helpers import lava_cache

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.filterwarnings("error:lavakv. decoding without a graph"),
]
KINDS = ["llama", "qwen3", "gemma3_text", "phi3", "cohere2", "falcon_h1"]
EXPERTS = ["mixtral", "gpt_oss", "qwen3_moe", "qwen3_next"]
NEW = 64


@pytest.fixture(autouse=True)
def _warn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusal, "_warned", set())


def _model(kind: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    return lavakv.enable(zoo.tiny(kind, dtype, head_dim=16) if kind == "llama" else zoo.tiny(kind, dtype)).cuda()


def _generate(model: nn.Module, cache: Any, ids: Tensor, **options: Any) -> Tensor:
    torch.manual_seed(5)
    asked = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None}
    return model.generate(ids, **cache_argument(model, cache), **asked | options)


def _same_text(model: nn.Module, ids: Tensor, replays: int = NEW - 1, **options: Any) -> lavakv.LavaCache:
    plain, graph = lava_cache(model, graph=False), lava_cache(model)
    expected, found = _generate(model, plain, ids, **options), _generate(model, graph, ids, **options)
    assert found.equal(expected)
    assert graph.lengths().equal(plain.lengths())
    assert graph.decode_graph.num_replays == replays
    return graph


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_architectures(kind: str, padded: bool) -> None:
    mask = torch.ones(2, 40, dtype=torch.long, device="cuda")
    mask[0, :9] = 0
    _same_text(_model(kind), zoo.prompt(40, batch=2).cuda(), **({"attention_mask": mask} if padded else {}))


@pytest.mark.parametrize("kind", EXPERTS)
def test_experts(kind: str) -> None:
    model = _model(kind)
    model.set_experts_implementation("batched_mm")
    _same_text(model, zoo.prompt(40, batch=2).cuda())


def test_sampling_and_several_sequences() -> None:
    _same_text(_model("llama"), zoo.prompt(40, batch=2).cuda(), do_sample=True, num_return_sequences=3)


def test_turns_rounds_and_crops() -> None:
    model, texts = _model("llama"), []
    for graph in (False, True):
        cache = lava_cache(model, graph=graph, max_tokens_per_head=60)
        text = _generate(model, cache, zoo.prompt(40).cuda(), max_new_tokens=100)
        text = torch.cat([text, zoo.prompt(5).cuda()], dim=1)
        texts.append(_generate(model, cache, text, max_new_tokens=100))
    assert texts[0].equal(texts[1])
    assert cache.decode_graph.num_captures > 2


def test_another_stream_waits_for_the_last_one() -> None:
    model, found = _model("llama"), []
    for graph in (False, True):
        cache, call = lava_cache(model, graph=graph), lavakv.graphed(model)
        ids = zoo.prompt(40).cuda()
        with torch.inference_mode():
            model(input_ids=ids, **cache_argument(model, cache))
            ids, logits = ids[:, :1], []
            for step in range(30):
                stream = torch.cuda.Stream() if step % 3 == 2 else torch.cuda.current_stream()
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    logits.append(call(input_ids=ids, **cache_argument(model, cache)).logits)
                torch.cuda.current_stream().wait_stream(stream)
                ids = logits[-1][:, -1].argmax(-1, keepdim=True)
        found.append(torch.cat(logits, dim=1).argmax(-1))
    assert found[0].equal(found[1])
    assert cache.decode_graph.num_replays == 30


@pytest.mark.filterwarnings("default:lavakv. decoding without a graph")
@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "qwen3_next"])
def test_a_forward_that_waits_for_the_host_falls_back(kind: str) -> None:
    model = _model(kind)
    model.set_experts_implementation("eager")
    with pytest.warns(UserWarning, match="waits for the device"):
        _same_text(model, zoo.prompt(40, batch=2).cuda(), replays=0)


@pytest.mark.filterwarnings("default:lavakv. decoding without a graph")
def test_a_call_that_a_capture_forbids_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that no operator shows: the driver ends the capture. Later captures work, and so does the allocator."""
    model = _model("llama")
    forward = type(model.model.norm).forward

    def waiting(self: Any, *args: Any) -> Any:
        torch.cuda.synchronize()
        return forward(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(type(model.model.norm), "forward", waiting)
        with pytest.warns(UserWarning, match="cannot be captured"):
            _same_text(model, zoo.prompt(40).cuda(), replays=0)
    torch.empty(1 << 20, device="cuda").random_().sum().item()
    _same_text(model, zoo.prompt(40).cuda())


def test_memory_comes_back() -> None:
    model = _model("llama")
    _same_text(model, zoo.prompt(40).cuda())  # workspaces of the libraries stay
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    for _ in range(3):
        cache = lava_cache(model)
        _generate(model, cache, zoo.prompt(40).cuda())
        assert cache.decode_graph.num_captures == 1
        del cache
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before


@pytest.fixture(scope="module")
def smollm() -> nn.Module:
    """The default model in bfloat16."""
    folder = os.environ.get("LAVAKV_TEST_MODEL") or fetched_model_dir()
    if folder is None:
        pytest.skip("the default model is not on this machine: `lavakv models --fetch`, or LAVAKV_TEST_MODEL")
    return lavakv.enable(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).cuda().eval())


@pytest.mark.parametrize("padded", [False, True])
def test_512_tokens_of_a_real_model(smollm: nn.Module, padded: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Greedy and token by token, in bfloat16; prints what the graph takes."""
    ids = torch.randint(100, 40_000, (2, 1500), generator=torch.Generator().manual_seed(1)).cuda()
    mask = torch.ones_like(ids)
    mask[0, : 400 if padded else 0] = 0
    texts, seconds, extra = [], [], 0
    for graph in (False, True):
        cache = lavakv.LavaCache(smollm.config, budget=256, graph=graph)
        torch.cuda.synchronize()
        started = time.perf_counter()
        texts.append(_generate(smollm, cache, ids, attention_mask=mask, max_new_tokens=512))
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    assert cache.decode_graph.num_replays == 511
    held = torch.cuda.memory_allocated()
    cache.decode_graph.free()
    extra = held - torch.cuda.memory_allocated()
    with capsys.disabled():
        sys.stdout.write(
            f"\n512 tokens of 2 sequences: {seconds[0]:.2f} s, with a graph {seconds[1]:.2f} s, which holds "
            f"{extra / 1e6:.1f} MB beside the cache\n"
        )
    assert texts[0].equal(texts[1])
    assert extra < 200e6


def test_time_of_a_capture(smollm: nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    """At most a second for a batch size, once kernels are compiled."""
    ids = torch.randint(100, 40_000, (1, 600)).cuda()
    call = lavakv.graphed(smollm)
    for _ in range(2):
        cache = lavakv.LavaCache(smollm.config, budget=256)
        with torch.inference_mode():
            smollm(input_ids=ids, **cache_argument(smollm, cache))
            torch.cuda.synchronize()
            started = time.perf_counter()
            call(input_ids=ids[:, :1], **cache_argument(smollm, cache))
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    with capsys.disabled():
        sys.stdout.write(f"\na capture of 30 layers: {seconds * 1000:.0f} ms\n")
    assert cache.decode_graph.num_captures == 1
    assert seconds <= 1


def test_no_warning_where_everything_is_captured() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _same_text(_model("llama"), zoo.prompt(40).cuda())
