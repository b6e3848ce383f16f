"""The attention's output projection, for the policies that score projected values."""

from __future__ import annotations

import weakref
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from lavakv.errors import LavaError, PolicyError
from lavakv.hf.measured import measure
from lavakv.hf.weights import is_unscaled, plain_weight, unscaled
from lavakv.scoring.output_norm import norm_gain, root_mean_squares
from lavakv.scoring.output_scale import OutputScale

_NAMES = ("o_proj", "out_proj", "dense", "c_proj")
_LAVA = "Use policy 'lava', which needs no weights."
_MERGE = f"{_LAVA} Or merge the adapter (`model.merge_and_unload()`), if it is one that can be merged."


class ProjectionSource(NamedTuple):
    """Where a later round finds a layer's output projection; does not keep the model alive.

    Attributes:
        module: the attention module.
        num_query_heads: query heads.
        value_dim: numbers of a value.
        dtype: of values.
        device: of values.
        norm: the norm behind the projection, or None where there is none.
    """

    module: weakref.ref[nn.Module]
    num_query_heads: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device
    norm: weakref.ref[nn.Module] | None = None

    def weight(self, argument: str) -> Tensor | None:
        """`W_O`, see `OutputProjection.weight`; None where the model is gone."""
        module = self.module()
        return None if module is None else self._of(module).weight(argument).detach()

    def weight_to_stream(self, argument: str) -> Tensor | None:
        """`W_O` and the gain of the norm behind it, if there is one; None where the model is gone."""
        module, weight = self.module(), self.weight(argument)
        return weight if module is None or weight is None else self._of(module).with_gain(weight)

    def output_rms(self, outputs: Tensor) -> Tensor | None:
        """See `OutputProjection.output_rms`; None where there is no norm."""
        module = self.module()
        return None if module is None or self.norm is None else self._of(module).output_rms(outputs, "model")

    def _of(self, module: nn.Module) -> OutputProjection:
        norm = None if self.norm is None else self.norm()
        return OutputProjection(module, *self[1:5], norm)


class OutputProjection:
    """`W_O` of one layer for one prompt, read or measured at first use: most policies never need it.

    Read where the projection is a plain linear layer, else measured by running it, see `measured.py`. Good for one
    prompt: adapters may be switched between prompts.

    Args:
        module: the attention module.
        num_query_heads: query heads.
        value_dim: numbers of a value.
        dtype: of what the projection is given.
        device: of what the projection is given.
        norm: the norm behind the projection, or None where there is none.
    """

    def __init__(
        self,
        module: nn.Module,
        num_query_heads: int,
        value_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        norm: nn.Module | None = None,
    ) -> None:
        self._module, self._heads, self._value_dim = module, num_query_heads, value_dim
        self._dtype, self._device = dtype, device
        self._weight: Tensor | None = None
        self._norm = norm

    @classmethod
    def of(
        cls, module: nn.Module, values: Tensor, num_query_heads: int, norm: nn.Module | None = None
    ) -> OutputProjection:
        """The projection of an attention module whose values are `[B, H, columns, value_dim]`."""
        return cls(module, num_query_heads, values.shape[-1], values.dtype, values.device, norm)

    def weight(self, argument: str) -> Tensor:
        """`W_O` as `[query_heads, value_dim, hidden]`, a view where it can be read, else float32 or wider.

        Args:
            argument: what an error is about.

        Raises:
            PolicyError: no such projection, one of another shape, or one that is not affine; says why.
            UnsupportedError: float8 weights without scales.
        """
        if self._weight is None:
            self._weight = self._found(argument).view(self._heads, self._value_dim, -1)
        return self._weight

    def scale(self, outputs: Tensor, argument: str) -> OutputScale | None:
        """What the norm behind the projection does to small changes at some rows, or None where there is none.

        Args:
            outputs: `[rows, query_heads, value_dim]`, what the projection is given there.
            argument: what an error is about.

        Raises:
            PolicyError: no such projection.
        """
        if self._norm is None:
            return None
        rms = self.output_rms(outputs, argument)
        return OutputScale(norm_gain(self._norm, self.weight(argument).shape[-1], self._dtype, self._device), rms)

    def with_gain(self, weight: Tensor) -> Tensor:
        """`W_O` `[query_heads, value_dim, hidden]` and the gain of the norm behind it, if there is one."""
        if self._norm is None:
            return weight
        return weight.float() * norm_gain(self._norm, weight.shape[-1], self._dtype, self._device).to(weight.device)

    @torch.no_grad()
    def output_rms(self, outputs: Tensor, argument: str) -> Tensor:
        """What the norm divides by, given outputs of the heads `[..., query_heads, value_dim]`; float32 `[...]`."""
        assert self._norm is not None
        _, projection = self._projection(argument)
        return root_mean_squares(self._norm, projection(outputs.detach().flatten(-2)))

    def _found(self, argument: str) -> Tensor:
        name, projection = self._projection(argument)
        weight = plain_weight(projection)
        if weight is not None and weight.shape[0] == self._num_inputs:
            return weight
        if is_unscaled(projection):
            raise unscaled(argument, projection)
        return self._measured(argument, name, projection)

    @property
    def _num_inputs(self) -> int:
        return self._heads * self._value_dim

    def _projection(self, argument: str) -> tuple[str, nn.Module]:
        """The first submodule with a name that output projections have, and as wide as all heads' values."""
        named = [(name, getattr(self._module, name, None)) for name in _NAMES]
        found = [(name, module) for name, module in named if isinstance(module, nn.Module)]
        for name, module in found:
            if _width(module) in (None, self._num_inputs):
                return name, module
        widths = [f"{name} of {_width(module)} numbers" for name, module in found]
        raise PolicyError(
            argument,
            expected=f"an output projection ({', '.join(_NAMES)}) of {self._num_inputs} numbers, all heads' values",
            got=" and ".join(widths) or f"a {type(self._module).__name__} without one",
            fix=_LAVA,
        )

    def _measured(self, argument: str, name: str, projection: nn.Module) -> Tensor:
        what, fix = f"{name}, {_kind(projection)},", _MERGE if hasattr(projection, "base_layer") else _LAVA
        if any(isinstance(part, _DropoutNd) and part.training and part.p > 0 for part in projection.modules()):
            got = f"{what} with dropout in training mode"
            raise PolicyError(argument, expected="an affine output projection", got=got, fix="Call `model.eval()`.")
        try:
            weight, is_finite, departure = measure(projection, self._num_inputs, self._dtype, self._device)
        except (LavaError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except Exception as error:  # third-party code may raise anything
            got = f"{what} which fails on test inputs: {type(error).__name__}: {error}".rstrip(". ")
            raise PolicyError(argument, expected="an output projection that can be run", got=got, fix=fix) from error
        if not is_finite:
            got = f"{what} which gives NaN or infinity for test inputs"
            raise PolicyError(argument, expected="an output projection of finite weights", got=got, fix=fix)
        if not departure <= 1:
            got = f"{what} which departs from an affine map by {departure:.1f} times what rounding explains"
            raise PolicyError(argument, expected="an affine output projection", got=got, fix=fix)
        return weight


def _width(module: nn.Module) -> int | None:
    """Numbers a layer takes, as far as it says so."""
    width = getattr(module, "in_features", getattr(module, "nx", None))
    return width if isinstance(width, int) else None


def _kind(projection: nn.Module) -> str:
    """What a projection is, in words for an error."""
    weight = projection._parameters.get("weight")
    kind = f"a {type(projection).__name__} of {type(projection).__module__.partition('.')[0]}"
    if weight is None or type(weight) is nn.Parameter:
        return kind
    return f"{kind} with a {type(weight).__name__} as weight"
