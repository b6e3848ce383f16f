"""The weight of a layer, found by running it: exact where the layer is, and refused where there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lavakv.hf.measured import measure
from tests.hf.stand_ins import Float8Blocks, Function, LowRank, QuantisedInput, Sum

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inputs", [1, 3, 48, 300])
def test_a_layer_without_bias_is_measured_to_the_bit(dtype: torch.dtype, inputs: int) -> None:
    torch.manual_seed(inputs)
    layer = nn.Linear(inputs, 20, bias=False).to(dtype)
    found = measure(layer, inputs, dtype, CPU)
    assert torch.equal(found.weight.to(dtype), layer.weight.T)
    assert found.is_finite
    assert found.departure <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [0.1, 1.0, 100.0])
def test_a_bias_costs_no_more_than_three_roundings(dtype: torch.dtype, size: float) -> None:
    """A large bias would bury the weights: what is added to 100 in bfloat16 is lost below a half.

    Lifted to the bias's size, product, sum and bias are rounded once each, by half of eps of the largest weight.
    """
    torch.manual_seed(0)
    layer = nn.Linear(64, 32).to(dtype)
    with torch.no_grad():
        layer.bias.copy_(size * torch.randn(32))
    found = measure(layer, 64, dtype, CPU)
    weight = layer.weight.detach().T.float()
    largest = float(weight.abs().max())
    assert float((found.weight - weight).abs().max()) <= 3 * torch.finfo(dtype).eps / 2 * largest
    assert found.departure <= 1


@pytest.mark.parametrize(
    "function",
    [torch.relu, torch.square, torch.tanh, torch.abs, lambda x: x.clamp(-1, 1), lambda x: x / x.norm()],
    ids=["relu", "square", "tanh", "abs", "clamp", "normalised"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_linear_departs_by_more_than_rounding(function, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 32).to(dtype)
    found = measure(nn.Sequential(Function(function), layer), 64, dtype, CPU)
    assert not found.departure <= 1


@given(
    inputs=st.integers(1, 300),
    outputs=st.integers(1, 70),
    rank=st.integers(1, 16),
    size=st.floats(-6, 6),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_what_is_affine_never_departs(
    inputs: int, outputs: int, rank: int, size: float, dtype: torch.dtype, seed: int
) -> None:
    """Whatever the sizes of weight, update and bias: no model is refused for its rounding."""
    torch.manual_seed(seed)
    layer = nn.Linear(inputs, outputs)
    layer.weight.data.mul_(2.0**size)
    down, up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)
    found = measure(Sum(layer, nn.Sequential(down, up)).to(dtype), inputs, dtype, CPU)
    assert found.is_finite
    assert found.departure <= 1


def test_chunks_give_what_one_call_gives(monkeypatch) -> None:
    torch.manual_seed(0)
    layer = LowRank(nn.Linear(48, 20))
    at_once = measure(layer, 48, torch.float32, CPU)
    monkeypatch.setattr("lavakv.hf.measured.MAX_BLOCK_ELEMENTS", 48 * 7)
    assert torch.allclose(measure(layer, 48, torch.float32, CPU).weight, at_once.weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("wrap", [QuantisedInput, lambda layer: Float8Blocks(layer, least=1e-12)])
def test_inputs_that_are_quantised_cost_nothing(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """One-hot rows, and sums of equal numbers, are exact under any scale of a token or block."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 32, bias=False)
    found = measure(wrap(layer), 64, torch.float32, CPU)
    torch.testing.assert_close(found.weight, layer.weight.detach().T, rtol=4 * torch.finfo(torch.float32).eps, atol=0)
    assert found.departure <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_of_zeros_that_become_nan_are_gone_around(dtype: torch.dtype) -> None:
    """A row of small numbers in their place adds their sum, which is rounded with the weight and taken off again."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 32, bias=False).to(dtype)
    odd = Float8Blocks(layer)
    assert odd(torch.zeros(1, 64, dtype=dtype)).isnan().all()
    found = measure(odd, 64, dtype, CPU)
    assert found.is_finite
    assert found.departure <= 1
    weight = layer.weight.detach().T.float()
    size = weight.abs() + 2 * 2.0**-8 * weight.abs().sum(dim=0)
    bound = (64 if dtype == torch.float32 else 2) * torch.finfo(dtype).eps  # float32 sums 64 numbers, each rounded
    assert bool(((found.weight - weight).abs() <= bound * size).all())


def test_measuring_leaves_no_trace() -> None:
    """Neither gradients nor random numbers nor modes change."""
    layer = LowRank(nn.Linear(24, 12), dropout=0.5).eval()
    before = torch.get_rng_state()
    found = measure(layer, 24, torch.float32, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert not found.weight.requires_grad
    assert not layer.training
    assert all(parameter.grad is None for parameter in layer.parameters())
