"""A saved context of the real model goes on as a copy does, and as the masked store does, which holds everything."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import lavakv
from lavakv.evaluation.encode import encode_context, encode_question
from tests.hf.helpers import feed, kept, split
from tests.real.conftest import Document

NUM_MORE = 40


@pytest.mark.parametrize("policy", ["lava", "reach"])
def test_it_goes_on_as_a_copy_and_as_the_masked_store(policy: str, model, document: Document, tmp_path: Path) -> None:
    ids = document.ids[:, :700]
    prompt, more = ids[:, :-NUM_MORE], split(ids[:, -NUM_MORE:], [7, *[1] * 13, 20])
    logits = []
    with lavakv.enabled(model):
        for store in ("ragged", "masked"):
            cache = lavakv.LavaCache(model.config, keep=0.25, policy=policy, store=store)
            feed(model, cache, [prompt])
            cache.save(tmp_path / store)
            loaded, twin = lavakv.LavaCache.load(tmp_path / store, model), copy.deepcopy(cache)
            logits.append(feed(model, loaded, more))
            assert logits[-1].equal(feed(model, twin, more))
            assert kept(loaded) == kept(twin)
    assert logits[0].argmax(-1).equal(logits[1].argmax(-1))


def test_context_and_question_are_the_prompt_that_the_template_makes(tokenizer) -> None:
    context, question = (
        encode_context(tokenizer, "The key is in the drawer."),
        encode_question(tokenizer, "Where is it?"),
    )
    message = [{"role": "user", "content": "The key is in the drawer.\n\nWhere is it?"}]
    expected = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    assert tokenizer.decode(torch.cat([context, question], dim=1)[0]) == expected
    assert tokenizer.decode(context[0]).endswith("<|im_start|>user\nThe key is in the drawer.\n\n")
    assert tokenizer.decode(question[0]) == "Where is it?<|im_end|>\n<|im_start|>assistant\n"
