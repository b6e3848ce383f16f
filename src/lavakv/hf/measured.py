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

from lavakv.scoring.blocks import BLOCK_NUMBERS

_CHECKED_ROWS, _CHECKED_ENTRIES = 64, 4  # few entries, so that rounding explains little of what a row gives
_TRIAL_ROWS = 16
_LARGEST_STEP = 2.0**12
# A row of the check differs from the sum of its parts by one rounding a part, and by those of the input, of the scaled
# weight, of what an adapter or a bias adds, and of the output. Layers may compute in bfloat16, whatever they return.
_ROUNDING = (_CHECKED_ENTRIES + 4) * torch.finfo(torch.bfloat16).eps / 2


class Measured(NamedTuple):
    """What running a layer told.

    Attributes:
        weight: `[inputs, outputs]`, float32 or wider.
        is_finite: is all of it a number?
        departure: largest departure from an affine map, relative to what rounding explains; above 1 it is none.
    """

    weight: Tensor
    is_finite: bool
    departure: float


@torch.no_grad()
def measure(layer: nn.Module, num_inputs: int, dtype: torch.dtype, device: torch.device) -> Measured:
    """Find the weight of an affine layer.

    Costs as much as sending `num_inputs` tokens through it, and one wait for the device.

    Args:
        layer: takes `[1, rows, num_inputs]`.
        num_inputs: width of its input.
        dtype: of its input.
        device: of its input.
    """
    rows = _Rows(layer, num_inputs, dtype, device)
    trial = rows.outputs(0, min(_TRIAL_ROWS, num_inputs), 1.0, with_zero=True)
    base = trial[0]
    step = _step(base, trial[1:])
    weight = torch.empty(num_inputs, base.shape[0], dtype=base.dtype, device=base.device)
    count = max(BLOCK_NUMBERS // max(num_inputs, base.shape[0]), 1)
    for start in range(0, num_inputs, count):
        stop = min(start + count, num_inputs)
        weight[start:stop] = (rows.outputs(start, stop, step) - base).div_(step)
    departure, is_finite = torch.stack([_departure(rows, weight, base, step), weight.isfinite().all()]).tolist()
    return Measured(weight, bool(is_finite), departure)


class _Rows(NamedTuple):
    """Inputs of a layer, and what it makes of them."""

    layer: nn.Module
    num_inputs: int
    dtype: torch.dtype
    device: torch.device

    def outputs(self, start: int, stop: int, step: float, with_zero: bool = False) -> Tensor:
        """What the layer gives for `step` in one input at a time, `[rows, outputs]`; for none in a first row."""
        extra = int(with_zero)
        inputs = torch.zeros(stop - start + extra, self.num_inputs, dtype=self.dtype, device=self.device)
        inputs[extra:].diagonal(start).fill_(step)
        return self.run(inputs)

    def run(self, inputs: Tensor) -> Tensor:
        """The layer's outputs in float32 or wider."""
        outputs: Tensor = self.layer(inputs[None])[0]
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def _step(base: Tensor, rows: Tensor) -> float:
    """A power of two that lifts the weights to the size of the bias, whose rounding would bury them."""
    bias, largest = torch.stack([base.abs().max(), (rows - base).abs().max()]).tolist()
    if not 0 < largest < bias < math.inf:
        return 1.0
    return min(2.0 ** math.ceil(math.log2(bias / largest)), _LARGEST_STEP)


def _departure(rows: _Rows, weight: Tensor, base: Tensor, step: float) -> Tensor:
    """How far the layer is from `weight` and `base` on sums of inputs with another factor and sign, in roundings."""
    entries = min(_CHECKED_ENTRIES, len(weight))
    count = min(_CHECKED_ROWS, len(weight) // entries)
    order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(0))[: count * entries]
    places = order.view(count, entries).to(weight.device)
    factor = -2 * step
    inputs = torch.zeros(count, len(weight), dtype=rows.dtype, device=rows.device)
    inputs.scatter_(1, places.to(rows.device), factor)
    parts = weight[places] * factor
    gaps = (rows.run(inputs) - (parts.sum(dim=1) + base)).norm(dim=1)
    explained = (parts.abs().sum(dim=1) + base.abs()).norm(dim=1) * _ROUNDING
    worst: Tensor = (gaps / explained.clamp(min=torch.finfo(gaps.dtype).tiny)).max()
    return worst
