"""PEFT's prompt learning: virtual tokens come before the text, or are refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import DynamicCache

import lavakv
from lavakv import UnsupportedError
from tests.hf import zoo
from tests.hf.helpers import feed, kept, lava_cache, refuses
from tests.hf.peft_models import NEW, PROMPT, peft, prompts, trained

VIRTUAL = {
    "prompt tuning": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "p-tuning": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16),
    "cpt": lambda: peft.CPTConfig(
        task_type="CAUSAL_LM", cpt_token_ids=[5, 6, 7, 8], cpt_mask=[1] * 4, cpt_tokens_type_mask=[1] * 4
    ),
}


def _prefixed(kind: str) -> nn.Module:
    torch.manual_seed(3)
    config = {
        **VIRTUAL,
        "prefix tuning": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    }[kind]()
    return lavakv.enable(trained(peft.get_peft_model(zoo.tiny("llama"), config), seed=4))


@pytest.fixture
def _knows_the_keyword() -> None:
    """PEFT's own virtual tokens must work here: where they do not, what follows is refused."""
    model = _prefixed("prompt tuning")
    given = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    if not torch.equal(model.generate(**prompts(), **given), _by_hand(model)):
        pytest.skip("this PEFT does not know this transformers' name for the cache")


def _by_hand(model: nn.Module) -> torch.Tensor:
    """Greedy text without any cache."""
    ids = prompts()["input_ids"]
    for _ in range(NEW):
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(dim=-1)], dim=1)
    return ids


@pytest.mark.parametrize("kind", VIRTUAL)
@pytest.mark.usefixtures("_knows_the_keyword")
def test_virtual_tokens_come_before_the_text(kind: str) -> None:
    """They are columns like others, held while the budget allows it and evicted by score."""
    model = _prefixed(kind)
    given = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    whole = lava_cache(model, budget=PROMPT + 4)
    text = model.generate(**prompts(), past_key_values=whole, **given)
    assert torch.equal(text, _by_hand(model))
    assert whole.get_seq_length() == PROMPT + 4 + NEW - 1
    small, embedded = lava_cache(model, policy="criticalkv"), lava_cache(model, policy="criticalkv")
    model.generate(**prompts(), past_key_values=small, **{**given, "max_new_tokens": 1})
    inside = model.get_base_model()
    virtual = model.get_prompt(batch_size=2)
    embeddings = torch.cat([virtual, inside.get_input_embeddings()(prompts()["input_ids"])], dim=1)
    with torch.no_grad():
        inside(inputs_embeds=embeddings, past_key_values=embedded)
    assert kept(small) == kept(embedded)


@pytest.mark.parametrize("kind", VIRTUAL)
def test_a_second_turn_would_get_virtual_tokens_again_and_is_refused(kind: str) -> None:
    model = _prefixed(kind)
    cache = lava_cache(model)
    with torch.no_grad():
        model(**prompts(), past_key_values=cache)
    held, one = cache.get_seq_length(), {"input_ids": zoo.prompt(1, batch=2)}
    assert held == PROMPT + 4
    with refuses(UnsupportedError, "adapter ", f"one that holds {held} columns"):
        model(**one, past_key_values=cache)
    with refuses(UnsupportedError, "adapter ", f"one that holds {held} columns"):
        model.generate(**prompts(), past_key_values=cache)
    assert cache.get_seq_length() == held
    feed(model.get_base_model(), cache, [one["input_ids"]])  # the way the message names
    assert cache.get_seq_length() == held + 1


def test_prefix_tuning_is_refused_before_anything_runs() -> None:
    model, ran = _prefixed("prefix tuning"), []
    model.get_input_embeddings().register_forward_hook(lambda *_: ran.append(1))
    cache = lava_cache(model)
    for call in (model, model.generate):
        with refuses(UnsupportedError, "adapter PREFIX_TUNING", "a cache of its own"):
            call(**prompts(), past_key_values=cache)
    assert not ran
    assert cache.get_seq_length() == 0
    model.generate(**prompts(), past_key_values=DynamicCache(), max_new_tokens=2, pad_token_id=0)
    model(**prompts())
