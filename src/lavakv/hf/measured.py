"""The weight of a layer that cannot be read, found by running the layer: `layer(one-hot rows) - layer(0)`.

Right for whatever the layer does to get there (offloading, dequantisation, scales, adapters), as long as it is affine,
which is checked. All rows of a call have entries of one magnitude, so that layers that quantise what they are given
represent them exactly.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lavakv.scoring.blocks import MAX_BLOCK_ELEMENTS

_CHECKED_ROWS, _CHECKED_ENTRIES = 64, 4  # few entries, so that rounding explains little of what a row gives
_LARGEST_STEP = 2.0**12
_BACKGROUND = 2.0**-8  # float8 holds it exactly, whether the largest number beside it is 1, 2 or itself
# A row of the check differs from the sum of its parts by one rounding a part, and by those of the input, of the scaled
# weight, of what an adapter or a bias adds, and of the output. Layers may compute in bfloat16, whatever they return.
_ROUNDING = (_CHECKED_ENTRIES + 4) * torch.finfo(torch.bfloat16).eps / 2


class Measured(NamedTuple):
    """What running a layer shows.

    Attributes:
        weight: `[inputs, outputs]`, float32 or wider.
        is_finite: whether all of it is finite.
        departure: largest departure from an affine map, relative to what rounding explains; above 1 it is none.
    """

    weight: Tensor
    is_finite: bool
    departure: float


@torch.no_grad()
def measure(layer: nn.Module, num_inputs: int, dtype: torch.dtype, device: torch.device) -> Measured:
    """Find the weight of an affine layer.

    Costs as much as sending `num_inputs` tokens through it, and two waits for the device. A layer that gives NaN for
    zeros, as a scale of zero makes of them, is measured again between small numbers.

    Args:
        layer: takes `[1, rows, num_inputs]`.
        num_inputs: width of its input.
        dtype: of its input.
        device: of its input.
    """
    found = _Rows(layer, num_inputs, dtype, device, 0.0).measured()
    return found if found.is_finite else _Rows(layer, num_inputs, dtype, device, _BACKGROUND).measured()


class _Rows(NamedTuple):
    """Inputs of a layer that are the same number but for a few, and what it makes of them."""

    layer: nn.Module
    num_inputs: int
    dtype: torch.dtype
    device: torch.device
    background: float

    def measured(self) -> Measured:
        """The layer's weight, and how far it is from all that the layer does."""
        base = self._run(self._inputs(1))[0]
        count = min(max(MAX_BLOCK_ELEMENTS // max(self.num_inputs, base.shape[0]), 1), self.num_inputs)
        rows = self._one_hot(0, count, 1.0)
        step = 1.0 if self.background else _step(base, rows)
        weight = torch.empty(self.num_inputs, base.shape[0], dtype=base.dtype, device=base.device)
        for start in range(0, self.num_inputs, count):
            stop = min(start + count, self.num_inputs)
            if start or step != 1:
                rows = self._one_hot(start, stop, step)
            weight[start:stop] = (rows - base).div_(step - self.background)
        found = torch.stack([self._departure(weight, base, -2 * step), weight.isfinite().all()])
        departure, is_finite = found.tolist()
        return Measured(weight, bool(is_finite), departure)

    def _departure(self, weight: Tensor, base: Tensor, number: float) -> Tensor:
        """How far the layer is from `weight` and `base` on rows with a few times another number, in roundings."""
        entries = min(_CHECKED_ENTRIES, len(weight))
        count = min(_CHECKED_ROWS, len(weight) // entries)
        order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(0), device="cpu")
        places = order[: count * entries].view(count, entries)
        inputs = self._inputs(count).scatter_(1, places.to(self.device), number)
        parts = weight[places.to(weight.device)] * (number - self.background)
        gaps = (self._run(inputs) - (parts.sum(dim=1) + base)).norm(dim=1)
        explained = (parts.abs().sum(dim=1) + base.abs()).norm(dim=1) * _ROUNDING
        worst: Tensor = (gaps / explained.clamp(min=torch.finfo(gaps.dtype).tiny)).max()
        return worst

    def _one_hot(self, start: int, stop: int, number: float) -> Tensor:
        """What the layer gives for a number at one input after the other, `[stop - start, outputs]`."""
        inputs = self._inputs(stop - start)
        inputs.diagonal(start).fill_(number)
        return self._run(inputs)

    def _inputs(self, count: int) -> Tensor:
        return torch.full((count, self.num_inputs), self.background, dtype=self.dtype, device=self.device)

    def _run(self, inputs: Tensor) -> Tensor:
        """The layer's outputs in float32 or wider."""
        outputs: Tensor = self.layer(inputs[None])[0]
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def _step(base: Tensor, rows: Tensor) -> float:
    """A power of two that lifts the weights to the size of the bias, whose rounding would bury them."""
    bias, largest = torch.stack([base.abs().max(), (rows - base).abs().max()]).tolist()
    if not 0 < largest < bias < math.inf:
        return 1.0
    return min(2.0 ** math.ceil(math.log2(bias / largest)), _LARGEST_STEP)
