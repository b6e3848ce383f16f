"""All rows of a prompt, for the scores that look beyond the window."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class PromptRows(NamedTuple):
    """Every query of one sequence in one layer.

    Attributes:
        queries: `[H, G, N, head_dim]`.
        visible: from `start, stop` to bool `[stop - start, N]`, what these rows see; None means causal.
    """

    queries: Tensor
    visible: Callable[[int, int], Tensor] | None = None
