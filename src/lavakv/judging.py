"""Applying a policy's score and layer rule to a window, and refusing what cannot be compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from lavakv.errors import LavaError, PolicyError
from lavakv.policy import Policy
from lavakv.scoring.entropy import head_statistics, normalized_entropy
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow

Result = TypeVar("Result")
_MISSING = {
    "tokens_per_head": "the budget",
    "output_weight": "the weights of the attention's output projection",
    "prompt": "the queries of the whole prompt",
    "residual_norms": "the norms of the residual stream",
}


def judge(policy: Policy, window: ScoringWindow) -> Tensor | TieredScores:
    """Score a layer's entries, float32 `[H, n]`.

    Raises:
        PolicyError: the policy needs what the window lacks, its score fails, or its scores are no tensor or have the
            wrong shape; names the layer.
        LavaError: as the score raises it.
        MemoryError, torch.OutOfMemoryError, torch.AcceleratorError: not the policy's fault, so passed on as they are.
    """
    for need in policy.needs:
        if getattr(window, need) is None:
            raise _error(policy, window.layer, _MISSING[need], "none", "Use another policy for this model.")
    score = _called(policy, window, "score", policy.score)
    parts = tuple(score) if isinstance(score, TieredScores) else (score,)
    expected = (window.queries.shape[0], window.num_evictable)
    for part in parts:
        if not isinstance(part, Tensor):
            fix = "Return a tensor, or TieredScores of two."
            raise _error(policy, window.layer, "scores as a tensor", type(part).__name__, fix)
        if tuple(part.shape) != expected:
            fix = "Return one score per KV head and evictable position."
            raise _error(policy, window.layer, f"scores of shape {expected}", str(tuple(part.shape)), fix)
    if isinstance(score, TieredScores):
        return TieredScores(score.values.float(), score.outright)
    return score.float()


def _called(policy: Policy, window: ScoringWindow, what: str, function: Callable[[ScoringWindow], Result]) -> Result:
    """What a policy's own function says of a window; whatever it raises names policy and layer."""
    try:
        return function(window)
    except (LavaError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise _error(
            policy, window.layer, f"a {what} that can be computed", got, f"Mend the policy's {what}."
        ) from error


def layer_weight(policy: Policy, window: ScoringWindow, values: Tensor) -> float:
    """Weight of a layer in the split of the sequence's total, by the policy's layer rule.

    Raises:
        PolicyError: scores or a weight that cannot be compared; names policy and layer.
    """
    return checked_weight(policy, window.layer, layer_numbers(policy, window, values).tolist())


def score_weight(policy: Policy, values: Tensor, layer: int) -> float:
    """The part of `layer_weight` that follows from the scores: their entropy, else the number of heads.

    Raises:
        PolicyError: scores that are not finite, or below zero where an entropy is asked for; names policy and layer.
    """
    return checked_weight(policy, layer, [1.0, *_score_numbers(policy, values).tolist()])


def layer_numbers(policy: Policy, window: ScoringWindow, values: Tensor) -> Tensor:
    """What `checked_weight` needs, worked out where the scores are, without waiting for them.

    Returns:
        float64 `[numbers]`: 0 if the policy needs a residual stream that is zero throughout the window, else 1; sums
        that are finite if the scores can be used; the layer's weight.

    Raises:
        PolicyError: a layer rule that fails or gives no number; names policy and layer. Other errors as `judge`.
    """
    numbers = _score_numbers(policy, values)
    norms = window.residual_norms if "residual_norms" in policy.needs else None
    stream = numbers.new_ones(1) if norms is None else (norms > 0).any().to(numbers).reshape(1)
    if not callable(policy.layer_rule):
        return torch.cat([stream, numbers])
    weight: Any = _called(policy, window, "layer rule", policy.layer_rule)
    if isinstance(weight, int | float):
        weight = numbers.new_full((1,), float(weight))
    if not isinstance(weight, Tensor) or weight.numel() != 1:
        got = str(tuple(weight.shape)) if isinstance(weight, Tensor) else type(weight).__name__
        raise _error(policy, window.layer, "one number as the layer's weight", got, "Mend the policy's layer rule.")
    return torch.cat([stream, numbers[:-1], weight.to(numbers).reshape(1)])


def checked_weight(policy: Policy, layer: int, numbers: list[float]) -> float:
    """The weight at the end of what `layer_numbers` worked out.

    Raises:
        PolicyError: scores or a weight that cannot be compared; names policy and layer.
    """
    stream, *sums, weight = numbers
    if not all(map(math.isfinite, sums)):
        if not stream:
            fix = "Use another policy, or check the model's weights."
            raise _error(policy, layer, "a hidden state in the window that is not zero", "only zeros", fix)
        negative = math.isfinite(sums[0])
        raise _error(
            policy,
            layer,
            "scores of zero or more: an entropy needs them" if negative else "finite scores",
            "a negative one" if negative else "NaN or infinity",
            "Mend the policy's score, or check the model's weights and dtype.",
        )
    if not 0.0 <= weight < float("inf"):
        fix = "Mend the policy's layer rule, or check the model's weights and dtype."
        raise _error(policy, layer, "a finite layer weight of zero or more", str(weight), fix)
    return weight


def _score_numbers(policy: Policy, values: Tensor) -> Tensor:
    if policy.layer_rule == "entropy":
        sums = head_statistics(values).sum(dim=0)
        return torch.cat([sums, normalized_entropy(sums, values.numel())[None]])
    total = values.sum(dtype=torch.float64)[None]
    return torch.cat([total, total.new_full((1,), float(values.shape[0]))])


def _error(policy: Policy, layer: int, expected: str, got: str, fix: str) -> PolicyError:
    return PolicyError(f"policy {policy.name!r} at layer {layer}", expected=expected, got=got, fix=fix)
