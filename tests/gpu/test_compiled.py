"""The operator and compiled layers on a GPU: what compilers are told of it holds there, and a graph captures them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import CompileConfig

import lavakv
from lavakv.attention.operator import StoreTensors
from lavakv.attention.static import append_and_attend
from lavakv.store.ragged import RaggedStore
from tests.attention.cases import Case
from tests.attention.kernel_cases import case
from tests.hf import zoo
from tests.hf.generation import generate
from tests.hf.helpers import lava_cache

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.filterwarnings("error:lavakv"),
]


def _called_with(example: Case) -> tuple[RaggedStore, Any]:
    """A store on the GPU with capacity for two more columns, and what a step on it is called with."""
    store, queries = example.to("cuda").fill(RaggedStore()), example.to("cuda").request
    assert isinstance(store, RaggedStore)
    assert store.tail is not None
    store.tail.reserve(2)
    new = torch.randn(2, 2, 1, 64, device="cuda").to(queries.queries.dtype)
    return store, (new, -new, queries, torch.tensor([store.tail.length], device="cuda"))


@pytest.mark.parametrize("settings", [{}, {"sinks": True, "softcap": 2.0}, {"past_masked": True}, {"group": 1}])
@torch.no_grad()
def test_the_operator_is_what_it_declares_and_computes_what_the_store_does(settings: dict[str, Any]) -> None:
    store, (keys, values, request, length) = _called_with(case(torch.bfloat16, 64, **settings))
    twin, tensors = copy.deepcopy(store), StoreTensors.of(store)
    queries, (scaling, softcap, sinks), *masks = request
    torch.library.opcheck(
        torch.ops.lavakv.append_and_attend.default,
        (queries, keys, values, *tensors, length, *masks, sinks, scaling, softcap),
    )
    got = tensors.attend(keys, values, request, length)
    assert torch.equal(got, append_and_attend(twin, keys, values, request, length).transpose(1, 2))


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_graph_captures_compiled_layers(kind: str) -> None:
    """Float32 tokens and errors: at most twice the uncompiled step's error against float64."""
    found = []
    for dtype, graph, config in (
        (torch.float64, False, None),
        (torch.float32, False, None),
        (torch.float32, True, CompileConfig(fullgraph=True)),
    ):
        model = lavakv.enable(zoo.tiny(kind, dtype, attention="eager" if kind == "gemma2" else "sdpa").cuda())
        cache = lava_cache(model, max_new_tokens=20, graph=graph)
        ids = zoo.prompt(40, batch=2).cuda()
        found.append(generate(model, cache, ids, compile_config=config))
    assert cache.decode_graph.num_captures == 1
    assert cache.decode_graph.refusal is None
    (tokens, exact), (_, plain), (compiled_tokens, compiled) = found
    assert compiled_tokens.equal(tokens)
    errors = [float((logits.double() - exact.double()).square().mean().sqrt()) for logits in (plain, compiled)]
    assert errors[1] <= 2 * errors[0]
