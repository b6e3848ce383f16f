"""Real configurations and their quirks: heads of several sizes, cross-attention, recurrent states beside keys."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, MllamaConfig, MllamaForConditionalGeneration

import lavakv
from tests.hf import zoo
from tests.hf.helpers import BY_POSITION, feed, kept, lava_cache, refuses, split, worst

CHUNKS = split(zoo.prompt(88), [80, 1, 1, 6])

# Default configurations, as big as published models: what a cache reads of them, without any weights.
DEFAULTS = {
    "gemma4_text": ({5, 11, 17, 23, 29}, {4}, {512}),
    "falcon_h1": (set(range(32)), {8}, {128}),
    "zamba2": None,
    "mllama_text_model": None,
    "jamba": None,
    "lfm2": None,
}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_a_cache_of_a_default_configuration(kind: str) -> None:
    cache = lavakv.LavaCache(AutoConfig.for_model(kind), budget=256)
    assert cache.layer_indices
    assert cache.nbytes == 0
    expected = DEFAULTS[kind]
    if expected is not None:
        layers, heads, sizes = expected
        assert set(cache.layer_indices) <= layers  # newer Gemma-4 configurations share the last one
        assert set(cache._geometry.num_heads) == heads
        assert set(cache._geometry.head_dims) == sizes


def _mllama() -> MllamaForConditionalGeneration:
    torch.manual_seed(7)
    text = {**zoo.common(), "num_hidden_layers": 4, "cross_attention_layers": [1]}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_global_layers": 1}
    vision |= {"attention_heads": 2, "image_size": 16, "patch_size": 4, "vision_output_dim": 32}
    vision |= {"intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]], "max_num_tiles": 1}
    model = MllamaForConditionalGeneration(MllamaConfig(text_config=text, vision_config=vision, image_token_index=95))
    return zoo.with_large_weights(model).eval().double()


def _image(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "pixel_values": torch.randn(1, 1, 1, 3, 16, 16, dtype=torch.float64, generator=generator),
        "aspect_ratio_ids": torch.ones(1, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.ones(1, 1, 1, dtype=torch.long),
        "cross_attention_mask": torch.ones(1, ids.shape[1], 1, 1, dtype=torch.long),
    }


@pytest.mark.parametrize("with_image", [False, True], ids=["text", "image"])
@torch.no_grad()
def test_cross_attention_layers_are_not_compressed(with_image: bool) -> None:
    """Llama-3.2-Vision: their keys are the image's; the text's layers around them are as with the full cache."""
    model = lavakv.enable(_mllama())

    def logits(cache: object) -> torch.Tensor:
        extra = _image(CHUNKS[0]) if with_image else {}
        answers = [model(input_ids=CHUNKS[0], past_key_values=cache, **extra).logits[:, -1:]]
        seen = CHUNKS[0].shape[1]
        for ids in CHUNKS[1:]:
            seen += ids.shape[1]
            extra = {"cross_attention_mask": torch.ones(1, seen, 1, 1, dtype=torch.long)} if with_image else {}
            answers.append(model(input_ids=ids, past_key_values=cache, **extra).logits)
        return torch.cat(answers, dim=1)

    whole = lava_cache(model, budget=1000)
    assert worst(logits(whole), logits(DynamicCache(config=model.config))) < 1e-12
    assert whole.layer_indices == (0, 2, 3)
    caches = [lava_cache(model, store=store, policy=BY_POSITION) for store in ("ragged", "masked")]
    assert worst(*(logits(cache) for cache in caches)) < 1e-12
    assert kept(caches[0]) == kept(caches[1])
    with refuses(lavakv.UnsupportedError, "max_bytes", "cross-attention"):
        logits(lava_cache(model, max_bytes="1MiB"))


@pytest.mark.parametrize("kind", ["falcon_h1", "zamba2"])
def test_recurrent_states_beside_keys_are_kept_and_counted(kind: str) -> None:
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    cache, stock = lava_cache(model), DynamicCache(config=model.config)
    feed(model, cache, CHUNKS)
    feed(model, stock, CHUNKS)
    for index in cache.layer_indices:
        for name in ("conv_states", "recurrent_states"):
            ours, theirs = getattr(cache.layers[index], name), getattr(stock.layers[index], name)
            assert len(ours) == len(theirs)
    entries = int(cache.lengths().sum())
    per_entry = 2 * cache._geometry.head_dims[0] * 8
    assert cache.nbytes > entries * per_entry  # the states come on top
    assert sum(cache.bytes_by_sequence()) == cache.nbytes
    with refuses(lavakv.UnsupportedError, "max_bytes"):
        feed(model, lava_cache(model, max_bytes="1MiB"), CHUNKS[:1])


def test_bytes_of_layers_with_several_head_sizes() -> None:
    """A budget in bytes counts each layer with its own heads: the whole cache fits, and one token more would not."""
    model = lavakv.enable(zoo.tiny("gemma4_text"))
    sizes = lava_cache(model)._geometry
    token_bytes = 2 * 4 * sum(heads * size for heads, size in zip(sizes.num_heads, sizes.head_dims, strict=True))
    assert set(sizes.head_dims) == {16}  # its other layers have heads of 8
    for limit in (25_000, 28_000, 31_111):
        cache = lava_cache(model, max_bytes=limit)
        feed(model, cache, CHUNKS[:1])
        assert limit - token_bytes < cache.nbytes <= limit


@torch.no_grad()
def test_what_holds_an_image_cannot_be_cropped() -> None:
    """Its keys are no tokens of the text; without an image there are none, and a crop is as anywhere."""
    model = lavakv.enable(_mllama())
    cache = lava_cache(model)
    feed(model, cache, CHUNKS[:1], **_image(CHUNKS[0]))
    feed(model, cache, CHUNKS[1:2], cross_attention_mask=torch.ones(1, 81, 1, 1, dtype=torch.long))
    with refuses(lavakv.UnsupportedError, "cropping", "something else than the text"):
        cache.crop(-1)
    assert cache.get_seq_length() == 81
    cache, plain = lava_cache(model), lava_cache(model)
    feed(model, plain, CHUNKS[:1])
    feed(model, cache, [CHUNKS[0], CHUNKS[3]])
    cache.crop(-6)
    assert feed(model, cache, CHUNKS[1:2]).equal(feed(model, plain, CHUNKS[1:2]))


@torch.no_grad()
@pytest.mark.parametrize("prompt", [80, 3], ids=["long", "shorter than a convolution"])
def test_convolutions_take_back_what_they_recorded(prompt: int) -> None:
    torch.manual_seed(7)
    kinds = ["conv", "full_attention", "conv", "full_attention"]
    config = AutoConfig.for_model("lfm2", **{**zoo.common(), "num_hidden_layers": 4}, layer_types=kinds, conv_L_cache=4)
    model = lavakv.enable(AutoModelForCausalLM.from_config(config).eval().double())
    chunks = split(zoo.prompt(prompt + 6, batch=2), [prompt, 3, 1, 2])
    cache, plain = lava_cache(model), lava_cache(model)
    feed(model, plain, chunks[:1])
    feed(model, cache, chunks[:1])
    cache.activate_past_recording()
    assert cache.is_croppable
    feed(model, cache, [zoo.prompt(3, batch=2, seed=4)])
    cache.crop(-3)
    cache.stop_recording()
    assert feed(model, cache, chunks[1:]).equal(feed(model, plain, chunks[1:]))
    with refuses(lavakv.CacheStateError, "cache layer 0"):
        cache.crop(-1)
