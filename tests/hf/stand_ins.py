"""Layers like those of quantisation and adapter libraries, as small as they can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def attentions(model: nn.Module) -> Iterator[nn.Module]:
    """The attention modules, in order."""
    return (module for module in model.modules() if hasattr(module, "o_proj"))


def projections(model: nn.Module) -> Iterator[nn.Module]:
    """The output projections, in order."""
    return (module.o_proj for module in attentions(model))


def replace_projections(model: nn.Module, wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Put another layer in place of every output projection."""
    for index, module in enumerate(list(attentions(model))):
        torch.manual_seed(index)
        module.o_proj = wrap(module.o_proj)


class Dequantised(Tensor):
    """An int8 tensor with a scale a row that calls itself float32 and has no storage of its own."""

    @staticmethod
    def __new__(cls, weight: Tensor) -> Dequantised:
        made: Dequantised = Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype)
        return made

    def __init__(self, weight: Tensor) -> None:
        self.scale = weight.abs().amax(dim=1, keepdim=True) / 127
        self.quantised = (weight / self.scale).round().to(torch.int8)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(f"{func} on a quantised tensor")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear:
            inputs, weight, bias = args
            return nn.functional.linear(inputs, weight.quantised * weight.scale, bias)
        return super().__torch_function__(func, types, args, kwargs or {})


class _Wrapper(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.in_features, self.out_features = base.in_features, base.out_features


class LowRank(_Wrapper):
    """A linear layer and a low-rank update as large as it."""

    def __init__(self, base: nn.Linear, dropout: float = 0.0) -> None:
        super().__init__(base)
        self.down, self.up = nn.Linear(base.in_features, 4, bias=False), nn.Linear(4, base.out_features, bias=False)
        nn.init.normal_(self.up.weight, std=0.5)
        self.dropout = nn.Dropout(dropout)

    @property
    def weight(self) -> Tensor:
        """That of the layer alone, as adapters show it."""
        return self.base_layer.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.base_layer(inputs) + self.up(self.down(self.dropout(inputs)))


class ScaledFloat8(nn.Linear):
    """Float8 weights, each row with a scale of its own that only the forward knows."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features, bias=False)
        scale = base.weight.detach().abs().amax(dim=1, keepdim=True) / 448 * torch.rand(base.out_features, 1)
        self.scale = nn.Parameter(scale)
        self.weight = nn.Parameter((base.weight.detach() / scale).clamp(-448, 448).to(torch.float8_e4m3fn), False)

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.linear(inputs, self.weight.to(inputs.dtype) * self.scale.to(inputs.dtype), self.bias)


class QuantisedInput(_Wrapper):
    """A layer that rounds each token's input to 127 steps of its largest number, as int8 products want it."""

    def forward(self, inputs: Tensor) -> Tensor:
        scale = inputs.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5) / 127
        return self.base_layer((inputs / scale).round() * scale)


class Float8Blocks(_Wrapper):
    """Inputs in float8 with a scale for every 16 of a token, as products of scaled blocks want it.

    A block of zeros has the scale zero and becomes NaN, unless it is guarded.
    """

    def __init__(self, base: nn.Linear, least: float = 0.0) -> None:
        super().__init__(base)
        self.least = least

    def forward(self, inputs: Tensor) -> Tensor:
        blocks = inputs.unflatten(-1, (-1, 16))
        scale = (blocks.abs().amax(dim=-1, keepdim=True) / 448).clamp(min=self.least)
        rounded = (blocks / scale).to(torch.float8_e4m3fn).to(inputs.dtype) * scale
        return self.base_layer(rounded.flatten(-2))


class Gated(_Wrapper):
    """An adapter whose strength depends on its input, which may also give no numbers, or fail."""

    def __init__(self, base: nn.Linear, scale: float = 1.0, fails: bool = False) -> None:
        super().__init__(base)
        self.scale, self.fails = scale, fails

    def forward(self, inputs: Tensor) -> Tensor:
        if self.fails:
            raise ValueError("rows of a batch.")
        return self.base_layer(inputs) * torch.sigmoid(self.scale * inputs.sum(dim=-1, keepdim=True))


class Casting(nn.Linear):
    """A layer stored in float8 without scales, cast up by a hook just before it runs and down again behind it."""

    @classmethod
    def of(cls, base: nn.Linear) -> nn.Linear:
        """Make one of a linear layer."""
        layer = nn.Linear(base.in_features, base.out_features, bias=False)
        layer.weight = nn.Parameter(base.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
        layer.register_forward_pre_hook(lambda module, args: _cast(module, args[0].dtype))
        layer.register_forward_hook(lambda module, *_: _cast(module, torch.float8_e4m3fn))
        return layer


def _cast(module: nn.Linear, dtype: torch.dtype) -> None:
    module.weight.data = module.weight.data.to(dtype)


class Function(nn.Module):
    """A function of the input."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


class Sum(nn.Module):
    """Two layers side by side."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, inputs: Tensor) -> Tensor:
        return self.one(inputs) + self.other(inputs)
