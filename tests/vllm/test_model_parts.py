"""What policies need of a model, on modules of the shape that vLLM's have; without vLLM."""

from __future__ import annotations

from functools import wraps

import pytest
import torch
from torch import nn

from lavakv.errors import UnsupportedError
from lavakv.policy.builtin import FAMILY
from lavakv.vllm.model_parts import ModelParts

HEADS, QUERY_HEADS, HEAD_DIM, HIDDEN = 2, 6, 4, 10


class Packed(nn.Module):
    """A projection that hides its weight and returns a pair, as vLLM's do."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.inner = [nn.Linear(QUERY_HEADS * HEAD_DIM, HIDDEN, bias=bias)]

    def forward(self, rows):
        return self.inner[0](rows), None


class Attention(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.attn, self.o_proj = nn.Identity(), Packed(bias)

    def forward(self, positions, hidden_states):
        return hidden_states


class Layer(nn.Module):
    def __init__(self, bias: bool = False, norms: tuple[str, ...] = ("post_attention_layernorm",)) -> None:
        super().__init__()
        self.self_attn = Attention(bias)
        for name in norms:
            self.add_module(name, nn.Identity())

    def forward(self, positions, hidden_states, residual=None):
        return hidden_states, residual


def parts_of(*layers: nn.Module) -> tuple[nn.Module, ModelParts]:
    model = nn.Module()
    model.layers = nn.ModuleList(layers)
    return model, ModelParts(model, [f"layers.{index}.self_attn.attn" for index in range(len(layers))])


@pytest.mark.parametrize("bias", [False, True])
def test_the_projection_is_read_by_running_it(bias) -> None:
    torch.manual_seed(0)
    model, parts = parts_of(Layer(bias), Layer(bias))
    for index, layer in enumerate(model.layers):
        weight = layer.self_attn.o_proj.inner[0].weight
        found = parts.output_weight(index, HEADS, QUERY_HEADS, HEAD_DIM)
        assert found.shape == (HEADS, QUERY_HEADS // HEADS, HEAD_DIM, HIDDEN)
        expected = weight.T.reshape(found.shape)
        if bias:
            assert torch.allclose(found, expected, atol=2 * torch.finfo(torch.float32).eps)  # of numbers below 1
        else:
            assert torch.equal(found, expected)


def test_the_stream_is_what_was_there_and_what_the_last_layer_added() -> None:
    model, parts = parts_of(Layer(), Layer())
    seen = []
    parts.watch_stream(lambda layer, stream: seen.append((layer, stream())))
    rows, before = torch.randn(2, 3, HIDDEN)
    model.layers[0](None, rows, None)
    model.layers[1](None, hidden_states=rows, residual=before)
    assert [layer for layer, _ in seen] == [0, 1]
    assert torch.equal(seen[0][1], rows)
    assert torch.equal(seen[1][1], rows + before)


def test_the_code_behind_a_decorator_says_whether_the_stream_comes_in_two_parts() -> None:
    def decorated(forward):
        @wraps(forward)
        def wrapper(*args, **kwargs):
            return forward(*args, **kwargs)

        return wrapper

    class Decorated(Layer):
        forward = decorated(Layer.forward)

    model, parts = parts_of(Decorated())
    seen = []
    parts.watch_stream(lambda _, stream: seen.append(stream()))
    rows, before = torch.randn(2, 3, HIDDEN)
    model.layers[0](None, rows, before)
    assert torch.equal(seen[0], rows + before)


def test_a_stream_in_one_piece_is_taken_as_it_is() -> None:
    """Layers that assign their `residual` before they read it, and those of transformers, which know none."""

    class InOnePiece(Layer):
        def forward(self, positions, hidden_states, residual):
            residual = hidden_states
            return residual + hidden_states, residual

    class OfTransformers(Layer):
        def forward(self, hidden_states, attention_mask=None):
            return hidden_states

    model, parts = parts_of(InOnePiece(), OfTransformers())
    seen = []
    parts.watch_stream(lambda _, stream: seen.append(stream()))
    rows, before = torch.randn(2, 3, HIDDEN)
    model.layers[0](None, rows, before)
    model.layers[1](rows[None])
    assert torch.equal(seen[0], rows)
    assert torch.equal(seen[1], rows)


@pytest.mark.parametrize(
    ("names", "behind"),
    [
        (("post_attention_layernorm",), None),
        (("post_attention_layernorm", "post_feedforward_layernorm"), "post_attention_layernorm"),
        (("post_attention_layernorm", "post_self_attn_layernorm"), "post_self_attn_layernorm"),
    ],
)
def test_a_norm_behind_the_projection_is_weighed(names, behind) -> None:
    """Its inputs times the gain, divided by their root mean square, are its outputs."""
    torch.manual_seed(0)
    model, parts = parts_of(Layer(norms=names))
    layer = model.layers[0]
    for name in names:
        setattr(layer, name, nn.RMSNorm(HIDDEN, eps=1e-6))
        getattr(layer, name).weight.data.normal_()
    outputs = torch.randn(5, QUERY_HEADS * HEAD_DIM)
    rms = parts.output_rms(0, outputs)
    if behind is None:
        assert rms is None
        return
    projected = layer.self_attn.o_proj(outputs)[0]
    gain, divisor = parts.output_scale(0, rms, HIDDEN)
    torch.testing.assert_close(projected * gain / divisor[:, None], getattr(layer, behind)(projected))


def test_models_without_these_parts_are_refused() -> None:
    layer = Layer()
    del layer.self_attn.o_proj
    _, parts = parts_of(layer)
    parts.check(FAMILY["lava"])
    with pytest.raises(UnsupportedError, match="output projection"):
        parts.check(FAMILY["criticalkv"])
