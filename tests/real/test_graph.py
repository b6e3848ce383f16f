"""Text of the real model through a graph, which here records operators on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch

import lavakv
from lavakv.hf.contract import cache_argument
from lavakv.hf.graph import backend
from tests.hf.graph.fake import FakeGraph
from tests.real.conftest import Document

NEW = 96


@pytest.mark.parametrize("padding", [0, 300])
def test_greedy_text_is_the_same(model, document: Document, padding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token by token, with a round on the way, for a batch that is padded or not."""
    monkeypatch.setitem(backend.backends, "cpu", FakeGraph)
    own = lavakv.enable(copy.deepcopy(model))
    ids = document.ids[:, :900].repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[0, :padding] = 0
    texts = []
    for graph in (False, True):
        cache = lavakv.LavaCache(own.config, budget=128, max_tokens_per_head=176, graph=graph)
        options = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None}
        texts.append(own.generate(ids, attention_mask=mask, **cache_argument(own, cache), **options))
    assert texts[0].equal(texts[1])
    assert cache.decode_graph.num_captures == 2
    assert (
        cache.decode_graph.num_replays == NEW - 2
    )  # the prompt gives one token; the step of the round is not replayed
