"""Quantised models of the libraries that transformers loads: every policy works, and scores see what the model does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

import lavakv
from tests.hf import zoo
from tests.hf.helpers import PROJECTING, feed, lava_cache
from tests.hf.stand_ins import attentions

PROMPT = 60
POLICIES = ("lava", *PROJECTING)
SIZES = {"hidden_size": 128, "intermediate_size": 128}  # groups of 32 and 64 divide them


def _torchao(config: str) -> Callable[[nn.Module], nn.Module]:
    def quantised(model: nn.Module) -> nn.Module:
        library = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
        library.quantize_(model, getattr(library, config)())
        return model

    return quantised


def _quanto(weights: str) -> Callable[[nn.Module], nn.Module]:
    def quantised(model: nn.Module) -> nn.Module:
        library = pytest.importorskip("optimum.quanto", reason="optimum-quanto is not installed")
        library.quantize(model, weights=getattr(library, weights))
        library.freeze(model)
        return model

    return quantised


def _bitsandbytes(name: str) -> Callable[[nn.Module], nn.Module]:
    def quantised(model: nn.Module) -> nn.Module:
        library = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
        for parent, child, layer in list(_linears(model)):
            made = getattr(library.nn, name)(layer.in_features, layer.out_features, bias=layer.bias is not None)
            made.load_state_dict(layer.state_dict())
            setattr(parent, child, made.to("cpu"))
        return model

    return quantised


def _compressed(preset: str) -> Callable[[nn.Module], nn.Module]:
    def quantised(model: nn.Module) -> nn.Module:
        pytest.importorskip("loguru", reason="compressed-tensors is not installed")
        library = pytest.importorskip("compressed_tensors.quantization", reason="compressed-tensors is not installed")
        group = library.preset_name_to_scheme(preset, ["Linear"])
        steps = torch.finfo(torch.float8_e4m3fn).max if "FP8" in preset else 127
        library.apply_quantization_config(
            model,
            library.QuantizationConfig(
                config_groups={"all": group}, ignore=["lm_head"], quantization_status=library.QuantizationStatus.FROZEN
            ),
        )
        for _, _, layer in _linears(model):
            layer.weight_scale.data = layer.weight.detach().abs().amax(dim=1, keepdim=True) / steps
        return model

    return quantised


def _linears(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """The linear layers below the language-model head."""
    for parent in model.model.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                yield parent, name, child


KINDS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "torchao int8 weights": _torchao("Int8WeightOnlyConfig"),
    "torchao int8 weights and inputs": _torchao("Int8DynamicActivationInt8WeightConfig"),
    "torchao float8 weights": _torchao("Float8WeightOnlyConfig"),
    "torchao intx weights": _torchao("IntxWeightOnlyConfig"),
    "quanto int8": _quanto("qint8"),
    "quanto int4": _quanto("qint4"),
    "quanto float8": _quanto("qfloat8"),
    "compressed-tensors int8 weights": _compressed("W8A16"),
    "compressed-tensors int8 weights and inputs": _compressed("W8A8"),
    "compressed-tensors float8 weights and inputs": _compressed("FP8_DYNAMIC"),
    "bitsandbytes int8": _bitsandbytes("Linear8bitLt"),
    "bitsandbytes fp4": _bitsandbytes("LinearFP4"),
    "bitsandbytes nf4": _bitsandbytes("LinearNF4"),
}


def _model(kind: str) -> nn.Module:
    model = zoo.tiny("llama", **SIZES)
    return KINDS[kind](model)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_policy_works(kind: str, policy: str) -> None:
    model = lavakv.enable(_model(kind))
    cache = lava_cache(model, policy=policy)
    ids = zoo.prompt(PROMPT)
    text = model.generate(ids, past_key_values=cache, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert text.shape[1] > PROMPT
    assert 0 < cache.lengths().sum() < 3 * 2 * PROMPT


@pytest.mark.parametrize("kind", KINDS)
def test_scores_see_what_the_model_does(kind: str) -> None:
    """The first layer keeps what it would with the projection's own outputs in place of its weight."""
    model = lavakv.enable(_model(kind))
    attention = next(iter(attentions(model)))
    ids = zoo.prompt(PROMPT)
    cache = lava_cache(model, policy="criticalkv")
    feed(model, cache, [ids])
    first = [cache.kept_positions(0, 0, head).tolist() for head in range(2)]
    width = attention.o_proj.in_features
    with torch.no_grad():
        rows = [attention.o_proj(row[None, None])[0, 0] for row in torch.eye(width)]
    attention.o_proj = nn.Linear(width, len(rows[0]), bias=False)
    attention.o_proj.weight = nn.Parameter(torch.stack(rows).T.contiguous())
    plain = lava_cache(model, policy="criticalkv")
    feed(model, plain, [ids])
    assert first == [plain.kept_positions(0, 0, head).tolist() for head in range(2)]
