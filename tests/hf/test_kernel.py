"""Whole models through the Triton kernels, under Triton's interpreter, against the plain path."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch

from tests.attention.interpreter import repaired_interpreter  # first: it skips where Triton is missing

import lavakv  # isort: skip
from lavakv.attention import plan as attention_plan
from lavakv.attention.triton import launch
from lavakv.kernels import device_unsupported_reason
from tests.hf import zoo
from tests.hf.helpers import feed, lava_cache, split, typical


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    device_unsupported_reason.cache_clear()
    monkeypatch.setattr(attention_plan.fallback, "on_cpu", True)
    with repaired_interpreter():
        yield


@pytest.mark.filterwarnings("error:lavakv. decoding takes the plain path")
@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt_oss"])
def test_logits_equal_the_plain_path(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups, softcap, sinks; one token and two; a padded batch. At most twice the plain path's own error.

    Padding with sdpa only: transformers' eager prefill of a padded batch is NaN in float64.
    """
    calls = []
    attend = launch.TileLaunch.attend
    monkeypatch.setattr(launch.TileLaunch, "attend", lambda *args: calls.append(1) or attend(*args))
    model = lavakv.enable(zoo.tiny(kind, attention="sdpa" if kind == "llama" else "eager"))
    chunks, mask = split(zoo.prompt(44, batch=2), [40, 1, 2, 1]), torch.ones(2, 44, dtype=torch.long)
    mask[0, : 36 if kind == "llama" else 0] = 0

    def logits(model: torch.nn.Module) -> torch.Tensor:
        cache, answers, seen = lava_cache(model, policy="streaming-llm"), [], 0
        for ids in chunks:
            seen += ids.shape[1]
            answers.append(feed(model, cache, [ids], attention_mask=mask[:, :seen])[:, -1:])
        return torch.cat(answers[1:], dim=1)

    got = logits(model)
    assert len(calls) == 3 * len(lava_cache(model).layer_indices)
    monkeypatch.setattr(attention_plan.fallback, "on_cpu", False)
    plain = logits(model)
    model.to(torch.float64)
    exact = logits(model)
    assert typical(got, exact) <= 2 * typical(plain, exact)


@pytest.mark.filterwarnings("error:lavakv. decoding takes the plain path")
def test_paths_are_chosen_once_for_all_forwards_on_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Again for another number of tokens, another batch, and a copy of the cache."""
    model, chosen = lavakv.enable(zoo.tiny("llama")), list[int]()
    choose = attention_plan.choose
    monkeypatch.setattr(
        attention_plan,
        "choose",
        lambda store, request: chosen.append(request.queries.shape[2]) or choose(store, request),
    )
    cache = lava_cache(model)
    feed(model, cache, split(zoo.prompt(46, batch=2), [40, 1, 1, 3, 1]))
    assert chosen == [1, 3]
    cache.batch_select_indices(torch.tensor([1]))
    feed(model, cache, split(zoo.prompt(2), [1, 1]))
    assert chosen == [1, 3, 1]
    feed(model, copy.deepcopy(cache), [zoo.prompt(1)])
    assert chosen == [1, 3, 1, 1]
