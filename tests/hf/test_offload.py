"""Weights that accelerate has put away: kept positions are those of the model that is all there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import lavakv
from lavakv import UnsupportedError
from lavakv.hf.weights import check_weights_loaded, plain_weight
from tests.hf import zoo
from tests.hf.helpers import PROJECTING, feed, kept, lava_cache, refuses
from tests.hf.stand_ins import projections

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")

POLICIES = ("lava", *PROJECTING)
PROMPT = 60
ATTENTION = "LlamaAttention"


def _some_layers(model: nn.Module, folder: Path, place: str) -> nn.Module:
    """As `device_map` with some layers elsewhere."""
    places = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    places |= {f"model.layers.{index}": place if index % 2 else "cpu" for index in range(3)}
    if place == "disk":
        return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True)
    return accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)


KINDS: dict[str, Callable[[nn.Module, Path], nn.Module]] = {
    "some layers on disk": lambda model, folder: _some_layers(model, folder, "disk"),
    "hooks that move inputs only": lambda model, folder: _some_layers(model, folder, "cpu"),
    "cpu": lambda model, _: accelerate.cpu_offload(model, execution_device=torch.device("cpu")),
    "disk": lambda model, folder: accelerate.disk_offload(model, str(folder), torch.device("cpu")),
    "cpu, whole attention modules": lambda model, _: accelerate.cpu_offload(
        model, execution_device=torch.device("cpu"), preload_module_classes=[ATTENTION]
    ),
    "disk, whole layers": lambda model, folder: accelerate.disk_offload(
        model, str(folder), torch.device("cpu"), preload_module_classes=["LlamaDecoderLayer"]
    ),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_that_of_the_model_that_is_all_there(kind: str, policy: str, tmp_path: Path) -> None:
    whole, away = lavakv.enable(zoo.tiny("llama")), lavakv.enable(KINDS[kind](zoo.tiny("llama"), tmp_path))
    found = []
    for model in (whole, away, away):
        cache = lava_cache(model, policy=policy)
        feed(model, cache, [zoo.prompt(PROMPT, batch=2), zoo.prompt(1, batch=2)])
        found.append(kept(cache))
    assert found[0] == found[1] == found[2]


BEAMS, LOOKUP = {"num_beams": 3}, {"prompt_lookup_num_tokens": 3}


# Drafts need a first weight that is loaded: transformers sends them to its device.
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, BEAMS) for kind in ("some layers on disk", "hooks that move inputs only", "cpu")),
        *((kind, LOOKUP) for kind in ("some layers on disk", "hooks that move inputs only")),
    ],
)
def test_searches_and_drafts(kind: str, options: dict[str, int], tmp_path: Path) -> None:
    """As far as one device shows it: accelerate's hooks stand between `generate`, the layers and the cache."""
    whole, away = lavakv.enable(zoo.tiny("llama")), lavakv.enable(KINDS[kind](zoo.tiny("llama"), tmp_path))
    ids = zoo.prompt(PROMPT // 2).repeat(1, 2)
    found = []
    for model in (whole, away):
        cache = lava_cache(model)
        tokens = model.generate(ids, past_key_values=cache, max_new_tokens=8, do_sample=False, **options)
        found.append((tokens.tolist(), kept(cache)))
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_other_projections_too(kind: str) -> None:
    whole, away = zoo.tiny(kind), accelerate.cpu_offload(zoo.tiny(kind), execution_device=torch.device("cpu"))
    found = []
    for model in (whole, away):
        cache = lava_cache(lavakv.enable(model), policy="criticalkv")
        feed(model, cache, [zoo.prompt(PROMPT)])
        found.append(kept(cache))
    assert found[0] == found[1]


def test_inference_mode_does_not_matter() -> None:
    whole, away = zoo.tiny("llama"), accelerate.cpu_offload(zoo.tiny("llama"), execution_device=torch.device("cpu"))
    found = []
    for model in (whole, away, away):
        cache = lava_cache(lavakv.enable(model), policy="criticalkv")
        with torch.inference_mode():
            model(zoo.prompt(PROMPT), past_key_values=cache)
            model(zoo.prompt(1), past_key_values=cache)
        found.append(kept(cache))
    assert found[0] == found[1] == found[2]


def test_weights_are_put_away_again(tmp_path: Path) -> None:
    model = lavakv.enable(KINDS["disk"](zoo.tiny("llama"), tmp_path))
    feed(model, lava_cache(model, policy="residual"), [zoo.prompt(PROMPT)])
    assert all(layer.weight.is_meta for layer in projections(model))


def test_hooks_that_only_move_inputs_leave_a_weight_readable(tmp_path: Path) -> None:
    model = KINDS["hooks that move inputs only"](zoo.tiny("llama"), tmp_path)
    layers = list(projections(model))
    assert all("forward" in layer.__dict__ for layer in layers)
    assert all(plain_weight(layer) is not None for layer in layers)


@pytest.mark.parametrize("policy", ["lava", "criticalkv"])
def test_a_half_loaded_model_is_refused_before_anything_runs(policy: str) -> None:
    model, ran = lavakv.enable(zoo.tiny("llama")), []
    list(projections(model))[1].to("meta")
    model.get_input_embeddings().register_forward_hook(lambda *_: ran.append(1))
    cache = lava_cache(model, policy=policy)
    with refuses(UnsupportedError, "model weight 'layers.1.self_attn.o_proj.weight'", "on the meta device"):
        feed(model, cache, [zoo.prompt(PROMPT)])
    assert not ran
    assert cache.get_seq_length() == 0


def test_buffers_count_and_hooks_that_do_not_offload_bring_nothing(tmp_path: Path) -> None:
    model = KINDS["hooks that move inputs only"](zoo.tiny("llama"), tmp_path)
    check_weights_loaded(model)
    model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq.to("meta")
    with refuses(UnsupportedError, "model weight 'model.rotary_emb.inv_freq'"):
        check_weights_loaded(model)


@pytest.mark.parametrize("kind", KINDS)
def test_offloaded_models_pass_the_check(kind: str, tmp_path: Path) -> None:
    check_weights_loaded(KINDS[kind](zoo.tiny("llama"), tmp_path).model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_context_of_offloaded_weights_is_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    """Its weights cannot be compared, and keys and values go to where the layers compute."""
    model = lavakv.enable(KINDS[kind](zoo.tiny("llama"), tmp_path))
    cache, file = lava_cache(model), tmp_path / "context.safetensors"
    feed(model, cache, [zoo.prompt(PROMPT)])
    cache.save(file)
    loaded, more = lavakv.LavaCache.load(file, model), [zoo.prompt(3, seed=1), zoo.prompt(1, seed=2)]
    assert feed(model, loaded, more).equal(feed(model, cache, more))
    others = lavakv.LavaCache.load(file, lavakv.enable(zoo.tiny("llama")))
    assert kept(others) == kept(lavakv.LavaCache.load(file, model))
