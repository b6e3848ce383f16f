"""PEFT: adapters inside the layers count as if merged, virtual tokens come before the text or are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import DynamicCache

import lavakv
from lavakv import InputError, PolicyError, UnsupportedError
from tests.hf import zoo
from tests.hf.helpers import feed, kept, lava_cache, refuses

peft = pytest.importorskip("peft", reason="PEFT is not installed")

PROMPT, NEW = 60, 6
EVERYWHERE = ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]


def _lora(**settings: Any) -> Any:
    return peft.LoraConfig(r=4, lora_alpha=8, target_modules=EVERYWHERE, lora_dropout=0.1, **settings)


CONFIGS = {
    "lora": lambda: _lora(),
    "rslora": lambda: _lora(use_rslora=True),
    "dora": lambda: _lora(use_dora=True),
    "ia3": lambda: peft.IA3Config(
        target_modules=["k_proj", "v_proj", "o_proj", "down_proj"], feedforward_modules=["o_proj", "down_proj"]
    ),
    "loha": lambda: peft.LoHaConfig(r=4, target_modules=EVERYWHERE),
    "oft": lambda: peft.OFTConfig(r=0, oft_block_size=4, target_modules=["o_proj"]),
}


def _trained(model: nn.Module, seed: int) -> nn.Module:
    """As if an adapter had been trained: its numbers, zero or one at first, are far from that."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            with torch.no_grad():
                parameter.add_(noise.abs() if "magnitude" in name else noise)
    return model.eval()


def _adapted(kind: str, base: str = "llama") -> nn.Module:
    return _trained(peft.get_peft_model(zoo.tiny(base), CONFIGS[kind]()), seed=1)


def _prompts(batch: int = 2) -> dict[str, torch.Tensor]:
    ids = zoo.prompt(PROMPT, batch=batch)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _outcome(model: nn.Module, policy: str) -> tuple[list[list[int]], list[list[int]]]:
    """What is kept, and the text."""
    cache = lava_cache(model, policy=policy)
    text = model.generate(**_prompts(), past_key_values=cache, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    return kept(cache), text.tolist()


@pytest.mark.parametrize("policy", ["lava", "criticalkv", "residual"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_counts_as_if_merged(kind: str, policy: str) -> None:
    wrapped, merged = _adapted(kind), _adapted(kind).merge_and_unload()
    plain = _outcome(lavakv.enable(zoo.tiny("llama")), policy)
    assert lavakv.enable(wrapped) is wrapped
    assert _outcome(wrapped, policy) == _outcome(lavakv.enable(merged), policy) != plain


@pytest.mark.parametrize("base", ["gpt2", "gpt_neox"])
def test_other_projections_too(base: str) -> None:
    """`Conv1D` and fused queries, keys and values, with biases."""
    names = {"gpt2": ["c_attn", "c_proj"], "gpt_neox": ["query_key_value", "dense"]}[base]
    models = []
    for _ in range(2):
        config = peft.LoraConfig(r=4, target_modules=names, fan_in_fan_out=base == "gpt2", lora_bias=True)
        models.append(_trained(peft.get_peft_model(zoo.tiny(base), config), seed=1))
    merged = lavakv.enable(models[1].merge_and_unload())
    assert _outcome(lavakv.enable(models[0]), "criticalkv") == _outcome(merged, "criticalkv")


def test_the_adapter_that_is_switched_on_counts() -> None:
    """One cache after the other: nothing of the adapter before is remembered."""
    model = _adapted("lora")
    model.add_adapter("other", _lora())
    model.set_adapter("other")
    lavakv.enable(_trained(model, seed=2))
    found = {}
    for name in ("default", "other", "default"):
        model.set_adapter(name)
        outcome = _outcome(model, "criticalkv")
        assert found.setdefault(name, outcome) == outcome
    with model.disable_adapter():
        without = _outcome(model, "criticalkv")
    assert without == _outcome(lavakv.enable(zoo.tiny("llama")), "criticalkv")
    assert len({str(outcome) for outcome in (*found.values(), without)}) == 3


def test_an_adapter_put_on_an_enabled_model_counts() -> None:
    later = _trained(peft.get_peft_model(lavakv.enable(zoo.tiny("llama")), CONFIGS["lora"]()), seed=1)
    assert _outcome(later, "criticalkv") == _outcome(lavakv.enable(_adapted("lora")), "criticalkv")


def test_several_kinds_of_adapter_at_once_count() -> None:
    """PEFT has another class for it; and transformers itself can hold adapters, without any wrapper."""
    mixed = peft.get_peft_model(zoo.tiny("llama"), CONFIGS["lora"](), mixed=True)
    mixed.add_adapter("other", CONFIGS["loha"]())
    mixed.set_adapter(["default", "other"])
    lavakv.enable(_trained(mixed, seed=1))
    found = _outcome(mixed, "criticalkv")
    assert found == _outcome(lavakv.enable(mixed.merge_and_unload()), "criticalkv")
    own = zoo.tiny("llama")
    own.add_adapter(CONFIGS["lora"]())
    assert _outcome(lavakv.enable(_trained(own, seed=1)), "criticalkv") != found


def test_an_adapter_that_only_the_last_tokens_have_is_refused_by_name_and_lava_serves_it() -> None:
    given = {**_prompts(batch=1), "max_new_tokens": 2, "pad_token_id": 0}
    config = _lora(task_type="CAUSAL_LM", alora_invocation_tokens=given["input_ids"][0, -3:].tolist())
    model = lavakv.enable(_trained(peft.get_peft_model(zoo.tiny("llama"), config), seed=1))
    with refuses(PolicyError, "policy 'criticalkv' at layer 0", "departs from an affine map"):
        model.generate(**given, past_key_values=lava_cache(model, policy="criticalkv"))
    cache = lava_cache(model)
    model.generate(**given, past_key_values=cache)
    assert cache.lengths().sum() > 0


def test_a_plain_forward_serves_a_wrapped_model() -> None:
    model = lavakv.enable(_adapted("lora"))
    caches = [lava_cache(model, policy="criticalkv") for _ in range(2)]
    one = feed(model, caches[0], [zoo.prompt(PROMPT)])
    other = feed(model.get_base_model(), caches[1], [zoo.prompt(PROMPT)])
    assert torch.equal(one, other)
    assert kept(caches[0]) == kept(caches[1])


def test_enabled_and_disable_reach_the_model_inside() -> None:
    model = _adapted("lora")
    inside, before = model.get_base_model(), model(**_prompts()).logits
    name = inside.config._attn_implementation
    with lavakv.enabled(model):
        _outcome(model, "lava")
    assert inside.config._attn_implementation == name
    assert "generate" not in inside.__dict__
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert torch.equal(model(**_prompts()).logits, before)
    lavakv.disable(lavakv.enable(lavakv.enable(model)))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_dropout_in_training_mode_is_refused_by_name() -> None:
    model = lavakv.enable(_adapted("lora"))
    model.train()
    with refuses(PolicyError, "policy 'criticalkv' at layer 0", "dropout in training mode"):
        feed(model, lava_cache(model, policy="criticalkv"), [zoo.prompt(PROMPT)])


def test_an_adapter_for_each_row_is_refused_by_name_and_lava_serves_it() -> None:
    model = _adapted("lora")
    model.add_adapter("other", _lora())
    lavakv.enable(_trained(model, seed=2))
    rows = {**_prompts(), "adapter_names": ["default", "other"], "max_new_tokens": 2, "pad_token_id": 0}
    with refuses(PolicyError, "policy 'criticalkv' at layer 0", "fails on test inputs"):
        model.generate(**rows, past_key_values=lava_cache(model, policy="criticalkv"))
    cache = lava_cache(model)
    model.generate(**rows, past_key_values=cache)
    assert cache.lengths().sum() > 0


VIRTUAL = {
    "prompt tuning": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "p-tuning": lambda: peft.PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16
    ),
}  # fmt: skip


def _prefixed(kind: str) -> nn.Module:
    torch.manual_seed(3)
    config = {
        **VIRTUAL,
        "prefix tuning": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    }[kind]()
    return lavakv.enable(_trained(peft.get_peft_model(zoo.tiny("llama"), config), seed=4))


@pytest.fixture
def _knows_the_keyword() -> None:
    """PEFT's own virtual tokens must work here: where they do not, what follows is refused."""
    model = _prefixed("prompt tuning")
    given = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    if not torch.equal(model.generate(**_prompts(), **given), _by_hand(model)):
        pytest.skip("this PEFT does not know this transformers' name for the cache")


def _by_hand(model: nn.Module) -> torch.Tensor:
    """Greedy text without any cache."""
    ids = _prompts()["input_ids"]
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
    text = model.generate(**_prompts(), past_key_values=whole, **given)
    assert torch.equal(text, _by_hand(model))
    assert whole.get_seq_length() == PROMPT + 4 + NEW - 1
    small, embedded = lava_cache(model, policy="criticalkv"), lava_cache(model, policy="criticalkv")
    model.generate(**_prompts(), past_key_values=small, **{**given, "max_new_tokens": 1})
    inside = model.get_base_model()
    virtual = model.get_prompt(batch_size=2)
    embeddings = torch.cat([virtual, inside.get_input_embeddings()(_prompts()["input_ids"])], dim=1)
    with torch.no_grad():
        inside(inputs_embeds=embeddings, past_key_values=embedded)
    assert kept(small) == kept(embedded)


@pytest.mark.parametrize("kind", VIRTUAL)
def test_a_second_turn_would_get_virtual_tokens_again_and_is_refused(kind: str) -> None:
    model = _prefixed(kind)
    cache = lava_cache(model)
    with torch.no_grad():
        model(**_prompts(), past_key_values=cache)
    held, one = cache.get_seq_length(), {"input_ids": zoo.prompt(1, batch=2)}
    assert held == PROMPT + 4
    with refuses(UnsupportedError, "adapter P", f"one that holds {held} columns"):
        model(**one, past_key_values=cache)
    with refuses(UnsupportedError, "adapter P", f"one that holds {held} columns"):
        model.generate(**_prompts(), past_key_values=cache)
    assert cache.get_seq_length() == held
    feed(model.get_base_model(), cache, [one["input_ids"]])  # the way the message names
    assert cache.get_seq_length() == held + 1


def test_prefix_tuning_is_refused_before_anything_runs() -> None:
    model, ran = _prefixed("prefix tuning"), []
    model.get_input_embeddings().register_forward_hook(lambda *_: ran.append(1))
    cache = lava_cache(model)
    for call in (model, model.generate):
        with refuses(UnsupportedError, "adapter PREFIX_TUNING", "a cache of its own"):
            call(**_prompts(), past_key_values=cache)
    assert not ran
    assert cache.get_seq_length() == 0
    model.generate(**_prompts(), past_key_values=DynamicCache(), max_new_tokens=2, pad_token_id=0)
    model(**_prompts())


def test_what_is_no_model_at_all_is_still_refused() -> None:
    with refuses(InputError, "model", "Linear"):
        lavakv.enable(nn.Linear(2, 2))
