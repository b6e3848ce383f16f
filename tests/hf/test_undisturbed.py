"""An enabled model without a `LavaCache` is the model it was: the same numbers, names, options and files."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import io
import pickle
import weakref

import pytest
import torch
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    LlamaForCausalLM,
)
from transformers.generation.configuration_utils import ContinuousBatchingConfig

import lavakv
from lavakv.hf import interface
from lavakv.hf.attention import INTERCEPTOR
from lavakv.hf.contract import cache_argument
from tests.hf import zoo
from tests.hf.helpers import feed, kept, lava_cache, refuses, split, worst

IDS, CHUNKS = zoo.prompt(40), split(zoo.prompt(44), [40, 1, 3])

# Architectures that compare the attention implementation's name; of the first kind LavaCache refuses all.
_LATENT = {
    "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "moe_intermediate_size": 24, "q_lora_rank": 16, "kv_lora_rank": 16,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "qk_head_dim": 12, "head_dim": 4,
    "index_head_dim": 8, "index_n_heads": 2, "index_topk": 8, "num_hidden_layers": 4,
}  # fmt: skip
_SPARSE = {
    "dense_intermediate_size": 48, "shared_intermediate_size": 24, "num_hidden_layers": 4, "head_dim": 8,
    "rotary_dim": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "index_n_heads": 2, "index_head_dim": 8,
    "layer_types": ["full_attention", "minimax_m3_sparse"] * 2, "index_block_size": 4, "index_topk_blocks": 2,
    "index_local_blocks": 1,
}  # fmt: skip
BY_NAME = {"deepseek_v32": _LATENT, "axk2": _LATENT, "hy_v4": _LATENT, "minimax_m3_vl_text": _SPARSE}


def _by_name(kind: str) -> nn.Module:
    torch.manual_seed(7)
    try:
        config = AutoConfig.for_model(kind, **{**zoo.common(), **BY_NAME[kind]})
    except ValueError:
        pytest.skip(f"this transformers has no {kind}")
    model = AutoModelForCausalLM.from_config(config).eval()
    model.set_experts_implementation("eager")
    return zoo.with_large_weights(model).double()


def _answers(model: nn.Module) -> list[torch.Tensor]:
    """Logits without a cache, with few of them, and with stock caches; and what generate writes."""
    with torch.no_grad():
        answers = [model(IDS).logits, model(IDS, logits_to_keep=3).logits]
        answers.append(feed(model, DynamicCache(config=model.config), CHUNKS))
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    return [*answers, model.generate(IDS, **options), model.generate(IDS, num_beams=2, **options)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", [*zoo.TEXT, "qwen2_vl", "gemma3"])
def test_every_architecture_is_bit_equal_once_enabled(kind: str, attention: str) -> None:
    if attention == "sdpa" and kind in ("gpt_oss", "gemma2"):
        pytest.skip("its softcap or sinks are not in sdpa")
    model = (zoo.tiny if kind in zoo.TEXT else zoo.tiny_vision)(kind, attention=attention)
    before = _answers(model)
    lavakv.enable(model)
    assert all(one.equal(other) for one, other in zip(_answers(model), before, strict=True))
    assert model.config._attn_implementation == attention
    feed(model, lava_cache(model), CHUNKS)  # with a LavaCache in between, too
    assert all(one.equal(other) for one, other in zip(_answers(model), before, strict=True))


@pytest.mark.parametrize("kind", BY_NAME)
def test_architectures_that_compare_names_are_bit_equal_once_enabled(kind: str) -> None:
    model = _by_name(kind)
    with torch.no_grad():
        before = model(IDS).logits
        lavakv.enable(model)
        assert model(IDS).logits.equal(before)
    if kind == "minimax_m3_vl_text":
        with torch.no_grad():
            assert worst(feed(model, lava_cache(model, budget=1000), [IDS]), before[:, -1:]) < 1e-12
    else:
        with refuses(lavakv.UnsupportedError, kind, "MLA"):
            lavakv.LavaCache(model.config)


def test_the_interfaces_are_untouched_but_while_a_forward_runs() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    before = [AttentionInterface.__dict__.get("get_interface"), AttentionMaskInterface.__dict__.get("__getitem__")]
    during: list[object] = []
    model.model.layers[1].register_forward_pre_hook(
        lambda *_: during.append(AttentionInterface.__dict__["get_interface"])
    )
    feed(model, lava_cache(model), CHUNKS)
    assert during
    assert before[0] not in during
    with pytest.raises(lavakv.InputError):
        feed(model, lava_cache(model), [IDS[:, :0]])
    model.model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        feed(model, lava_cache(model), CHUNKS)
    after = [AttentionInterface.__dict__.get("get_interface"), AttentionMaskInterface.__dict__.get("__getitem__")]
    assert after == before


def test_continuous_batching_goes_on() -> None:
    model = zoo.tiny("llama")
    options = GenerationConfig(max_new_tokens=3, do_sample=False, eos_token_id=2, pad_token_id=0)

    def written() -> list[list[int]]:
        prompts = [IDS[0].tolist(), IDS[0, :7].tolist()]
        small = {"continuous_batching_config": ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64)}
        results = model.generate_batch(prompts, generation_config=options, progress_bar=False, **small)
        return [result.generated_tokens for result in results.values()]

    before = written()
    assert all(before)
    lavakv.enable(model)
    assert written() == before


def test_output_attentions_goes_on() -> None:
    model = zoo.tiny("llama", attention="eager")
    before = model(IDS, output_attentions=True).attentions
    lavakv.enable(model)
    after = model(IDS, output_attentions=True).attentions
    assert all(one.equal(other) for one, other in zip(after, before, strict=True))
    model.config.output_attentions = True
    assert model(IDS).attentions is not None


def _pickled(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def _saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("again", [_pickled, _saved, copy.deepcopy], ids=["pickle", "torch.save", "deepcopy"])
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_copies_of_an_enabled_model_are_enabled_and_stand_on_their_own(kind: str, again) -> None:
    model = lavakv.enable((zoo.tiny if kind in zoo.TEXT else zoo.tiny_vision)(kind))
    twin, expected = again(model), feed(model, lava_cache(model), CHUNKS)
    before = _answers(model)
    lavakv.disable(model)
    assert feed(twin, lava_cache(twin), CHUNKS).equal(expected)
    with refuses(lavakv.UnsupportedError, "use_cache"):
        twin.generate(IDS, past_key_values=lava_cache(twin), use_cache=False, max_new_tokens=2)
    assert all(one.equal(other) for one, other in zip(_answers(twin), before, strict=True))
    lavakv.disable(twin)
    assert not any(module._forward_pre_hooks for module in twin.modules())


def test_a_model_saved_and_loaded_again_is_the_model_before(tmp_path) -> None:
    model = zoo.tiny("llama")
    before = model(IDS).logits
    lavakv.enable(model).save_pretrained(tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded(IDS).logits.equal(before)
    assert "lavakv" not in (tmp_path / "config.json").read_text() + (tmp_path / "generation_config.json").read_text()
    assert loaded.config._attn_implementation == model.config._attn_implementation


def test_generate_looks_as_before() -> None:
    model = zoo.tiny("llama")
    signature = inspect.signature(model.generate)
    lavakv.enable(model)
    assert inspect.signature(model.generate) == signature
    assert model.generate.__wrapped__.__doc__ == type(model).generate.__doc__


@pytest.mark.parametrize("whole", [True, False], ids=["model", "forward"])
def test_torch_compile_works_without_our_cache_and_is_refused_by_name_with_it(whole: bool) -> None:
    torch._dynamo.reset()
    model = lavakv.enable(zoo.tiny("llama", num_hidden_layers=1))
    cache = lava_cache(model)
    with torch.no_grad():
        expected = model(IDS).logits
        compiled = torch.compile(model if whole else model.forward, backend="eager")
        assert worst(compiled(IDS).logits, expected) < 1e-5
        with pytest.raises(lavakv.UnsupportedError, match=r"torch\.compile"):
            compiled(IDS, past_key_values=cache)
    assert cache.get_seq_length() == 0
    assert feed(model, cache, CHUNKS).isfinite().all()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "qwen3_next", "falcon_h1"])
def test_a_copied_filled_cache_goes_on_alone(kind: str, copied) -> None:
    model = lavakv.enable(zoo.tiny(kind))
    cache, reference = lava_cache(model), lava_cache(model)
    expected = feed(model, reference, CHUNKS)
    feed(model, cache, CHUNKS[:2])
    twin = copied(cache)
    assert kept(twin) == kept(cache)
    assert twin.nbytes == cache.nbytes
    assert feed(model, twin, CHUNKS[2:]).equal(feed(model, cache, CHUNKS[2:]))
    assert kept(twin) == kept(reference)
    assert feed(model, twin, [zoo.prompt(2)]).isfinite().all()
    assert kept(cache) == kept(reference)  # nothing is shared
    assert expected.isfinite().all()


def test_a_pickled_cache_takes_the_same_model_loaded_again_and_no_other() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache, expected = lava_cache(model), feed(model, lava_cache(model), CHUNKS)
    feed(model, cache, CHUNKS[:1])
    file = pickle.dumps(cache)
    del model, cache
    again, other = lavakv.enable(zoo.tiny("llama")), lavakv.enable(zoo.tiny("llama", num_hidden_layers=2))
    with refuses(lavakv.CacheMismatchError, "cache"):
        feed(other, pickle.loads(file), CHUNKS[1:])
    assert worst(feed(again, pickle.loads(file), CHUNKS[1:]), expected[:, 1:]) == 0


def test_keys_of_a_layer_say_where_what_is_held_can_be_seen() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, CHUNKS)
    with refuses(lavakv.HiddenTensorError, "keys and values"):
        _ = cache.layers[0].keys
    with pytest.raises(AttributeError, match="kept_positions"):
        _ = cache.layers[0].values
    assert not hasattr(cache.layers[0], "keys")


@pytest.mark.parametrize("way", ["generate", "forward", "disable"])
def test_an_interrupt_from_the_keyboard_leaves_nothing_behind(way: str) -> None:
    """PyTorch runs no hook after one: what the forward began ends with `generate`, the next forward, or `disable`."""
    before = AttentionInterface.__dict__.get("get_interface")
    model = lavakv.enable(zoo.tiny("llama"))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    hook, cache = model.model.layers[1].register_forward_pre_hook(interrupt), lava_cache(model)
    run = model.generate if way == "generate" else model
    with pytest.raises(KeyboardInterrupt):
        run(IDS, **cache_argument(model, cache))
    hook.remove()
    if way == "forward":
        assert feed(model, lava_cache(model), CHUNKS).isfinite().all()
    elif way == "disable":
        lavakv.disable(model)
    assert AttentionInterface.__dict__.get("get_interface") is before
    with refuses(lavakv.CacheStateError, "cache", "half-way"):
        cache.lengths()


def test_a_model_with_a_forward_of_its_own_can_be_freed() -> None:
    """As accelerate's hooks make it: a partial that holds the model."""
    model = zoo.tiny("llama", num_hidden_layers=1)
    for module in (model, model.model):
        module.forward = functools.update_wrapper(functools.partial(type(module).forward, module), type(module).forward)
    lavakv.enable(model)
    feed(model, lava_cache(model), CHUNKS)
    gone = weakref.ref(model)
    lavakv.disable(model)
    del model, module
    gc.collect()
    assert gone() is None


def test_enable_beside_other_interceptors() -> None:
    token = object()
    interface.start("ours", INTERCEPTOR)
    interface.start(token, interface.Interceptor(lambda delegate, *args, **kwargs: delegate(*args, **kwargs)))
    try:
        model = lavakv.enable(zoo.tiny("llama"))
        assert feed(model, lava_cache(model), CHUNKS).isfinite().all()
    finally:
        interface.stop(token)
        interface.stop("ours")


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_a_pickled_cache_is_as_small_as_the_cache(kind: str) -> None:
    """A view that were pickled by itself would bring its whole buffer along."""
    model = lavakv.enable(zoo.tiny(kind))
    cache = lava_cache(model, budget=100)
    feed(model, cache, [zoo.prompt(400, batch=4)])
    file = pickle.dumps(cache)
    assert len(file) < 1.5 * cache.nbytes
    again = pickle.loads(file)
    assert again.nbytes == cache.nbytes
    past = again.layers[again.layer_indices[0]].store.past
    storages = {keys.untyped_storage().data_ptr() for keys, _ in past.segments}
    assert storages == {past.keys.untyped_storage().data_ptr()}


def test_a_copy_is_filled_by_the_same_model_object() -> None:
    model, twin = lavakv.enable(zoo.tiny("llama")), lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, CHUNKS[:1])
    with refuses(lavakv.CacheMismatchError, "cache"):
        feed(twin, copy.deepcopy(cache), CHUNKS[1:])
    assert feed(model, copy.deepcopy(cache), CHUNKS[1:]).isfinite().all()
