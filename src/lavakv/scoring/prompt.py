"""All rows of a prompt, and what rows that repeat it paid, for the scores that look beyond the window."""

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


class ReplayMaxima(NamedTuple):
    """Largest attention that the rows of a replay paid to each position of a prompt in one layer.

    Attributes:
        attention: float32 `[H, G, N]`, over all rows of the replay that had the position in their chunk.
        per_norm: float32 `[H, G, N]`, the same of each row's attention divided by the L2 norm of the residual stream
            that the row was made from, or None where these norms are not known.
    """

    attention: Tensor
    per_norm: Tensor | None = None
