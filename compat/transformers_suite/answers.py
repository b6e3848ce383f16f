"""Compares the outputs of `generate` with a LavaCache and with the stock cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


class AnswerDiffersError(AssertionError):
    """`generate` gave different logits or tokens with a LavaCache than with the stock cache."""


@contextmanager
def logits_of(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collect the logits of the last token in each forward of a model, `[B, vocabulary]`."""
    steps: list[torch.Tensor] = []

    def note(_model: Any, _args: Any, output: Any) -> None:
        logits = getattr(output, "logits", None)
        if isinstance(logits, torch.Tensor) and logits.ndim == 3:
            steps.append(logits[:, -1].detach())

    handle = model.register_forward_hook(note)
    try:
        yield steps
    finally:
        handle.remove()


def compare(
    tokens: torch.Tensor, stock: torch.Tensor, found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]
) -> None:
    """Compare two outputs step by step, as long as they chose the same tokens.

    Logits count as equal if they agree to half the digits of the largest one: rounding errors are far below that,
    errors of attention above it, although these rarely change a token of a random model.

    Args:
        tokens: `[B, length]` with a LavaCache.
        stock: the same with a DynamicCache.
        found: logits of every step with a LavaCache, `[B, vocabulary]` each; empty if the model returns none.
        expected: the same with a DynamicCache.

    Raises:
        AnswerDiffersError: they are not equal.
    """
    if tokens.shape != stock.shape or len(found) != len(expected) or (not found and not torch.equal(tokens, stock)):
        raise AnswerDiffersError(f"with a LavaCache {tokens.tolist()}, with a DynamicCache {stock.tolist()}")
    first = tokens.shape[1] - len(found)
    for step, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        bound = math.sqrt(torch.finfo(theirs.dtype).eps) * float(theirs[theirs.isfinite()].abs().max())
        if not torch.allclose(ours, theirs, rtol=0.0, atol=bound, equal_nan=True):
            error = float((ours - theirs).abs().max())
            raise AnswerDiffersError(
                f"logits of step {step} are {error:.1e} from a DynamicCache's, allowed {bound:.1e}"
            )
        if first < 0 or not torch.equal(tokens[:, first + step], stock[:, first + step]):
            return  # almost a tie: from here on the texts differ
