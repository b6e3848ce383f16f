"""The prefill on a GPU: the kernels against the plain path, and a host that waits only at the end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import lavakv
from lavakv.eviction.round import Round
from lavakv.eviction.shares import SequencePlan
from lavakv.kernels import SWITCH
from lavakv.policy.registry import get_policy
from lavakv.scoring.window import ScoringWindow
from lavakv.store.ragged import RaggedStore
from tests.hf import zoo
from tests.hf.helpers import feed, kept, lava_cache

triton = pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(triton.knobs.runtime.interpret, reason="TRITON_INTERPRET is set: the kernels run interpreted"),
    pytest.mark.filterwarnings("error:lavakv. scoring takes the plain path"),
]
EPSILON = torch.finfo(torch.float32).eps


def _window(tokens: int, dtype: torch.dtype, dim: int, layer: int = 0) -> ScoringWindow:
    torch.manual_seed(tokens + layer)
    queries = torch.randn(8, 4, 32, dim, dtype=dtype, device="cuda")
    keys, values = (torch.randn(tokens, 8, dim, dtype=dtype, device="cuda").transpose(0, 1) for _ in range(2))
    return ScoringWindow(queries, [keys], [values], dim**-0.5, layer=layer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("tokens", "dim"), [(33, 64), (1000, 80), (5000, 128), (3000, 256)])
def test_mean_attention(tokens: int, dim: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    window = _window(tokens, dtype, dim)
    answer = window.mean_attention
    monkeypatch.setenv(SWITCH, "0")
    exact = replace(window, queries=window.queries.cpu().double(), keys=[window.keys[0].cpu().double()])
    truth = _in_float64(exact)
    evidence = float((replace(window).mean_attention.cpu().double() - truth).abs().max())
    assert float((answer.cpu().double() - truth).abs().max()) <= 2 * evidence + 4 * EPSILON * float(truth.max())


def _in_float64(window: ScoringWindow) -> torch.Tensor:
    logits = torch.einsum("hgwd,hnd->hgwn", window.queries, window.keys[0]) * window.scaling
    causal = torch.ones(logits.shape[2:], dtype=torch.bool).tril(window.num_evictable)
    return logits.masked_fill(~causal, -torch.inf).softmax(-1)[..., : window.num_evictable].mean(dim=2)


@pytest.mark.parametrize("name", ["lava", "snapkv", "cake", "layer-defensivekv"])
def test_no_layer_but_the_last_blocks_the_host(name: str) -> None:
    """PyTorch raises where an operation waits; waiting for an event of the layer before is no such operation."""
    policy, weight = get_policy(name), torch.randn(8, 4, 64, 64, device="cuda")
    for attempt in range(2):  # the first compiles and fills the allocators
        stores = [RaggedStore() for _ in range(4)]
        eviction = Round([SequencePlan(3000, 0, 200, 32, policy)], stores, [8] * 4)
        for layer, store in enumerate(stores):
            window = replace(_window(3000, torch.bfloat16, 64, layer), output_weight=weight, tokens_per_head=200)
            store.hold(window.keys[0][None], window.values[0][None])
            torch.cuda.set_sync_debug_mode("error" if attempt and layer < 3 else "default")
            try:
                eviction.add_layer([window])
            finally:
                torch.cuda.set_sync_debug_mode("default")
    assert sum(map(sum, (row for store in stores for row in store.past_counts()))) == 168 * 8 * 4


def test_a_model_keeps_what_it_keeps_on_the_cpu() -> None:
    model = lavakv.enable(zoo.tiny("llama", num_hidden_layers=6))
    caches = []
    for device in ("cpu", "cuda"):
        model.to(device)
        caches.append(lava_cache(model))
        feed(model, caches[-1], [zoo.prompt(150).to(device)])
    together = [len(set(one) & set(other)) for one, other in zip(*map(kept, caches), strict=True)]
    assert sum(together) >= 0.98 * sum(map(len, kept(caches[0]))), "rounding moves few"
