"""All rows of a prompt, and what rows that repeat it paid, for the scores that look beyond the window."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class RowTotals:
    """A number for each row of one prompt, summed over the layers scored so far; all its layers share one of these."""

    def __init__(self) -> None:
        self._totals: dict[int, Tensor] = {}

    def through(self, layer: int, own: Callable[[], Tensor]) -> Tensor:
        """The sum over a layer and all before it.

        Args:
            layer: index; layers come in order, and again in any order.
            own: the layer's numbers, float32 `[N]`; called once a layer.
        """
        if layer not in self._totals:
            before = [index for index in self._totals if index < layer]
            numbers = own()
            self._totals[layer] = numbers if not before else self._totals[max(before)].to(numbers.device) + numbers
        return self._totals[layer]


class PromptRows(NamedTuple):
    """Every query of one sequence in one layer.

    Attributes:
        queries: `[H, G, N, head_dim]`.
        visible: from `start, stop` to bool `[stop - start, N]`, what these rows see; None means causal.
        totals: what scores sum over the prompt's layers, or None where each layer stands for itself.
    """

    queries: Tensor
    visible: Callable[[int, int], Tensor] | None = None
    totals: RowTotals | None = None


class ReplayMaxima(NamedTuple):
    """Largest attention that the rows of a replay paid to each position of a prompt in one layer.

    Attributes:
        attention: float32 `[H, G, N]`, over all rows of the replay that had the position in their chunk.
        per_norm: float32 `[H, G, N]`, the same of each row's attention divided by the L2 norm of the residual stream
            that the row was made from, or None where these norms are not known.
    """

    attention: Tensor
    per_norm: Tensor | None = None
