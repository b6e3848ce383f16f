"""Applying a policy to one layer of one sequence: its scores, and the layer's weight in the split over layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from lavakv.errors import LavaError
from lavakv.policy.numbers import Readback, checked_weight, policy_error, score_numbers
from lavakv.policy.rules import Need, Policy
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow

Result = TypeVar("Result")
_MISSING = {
    "tokens_per_head": "the budget",
    "output_weight": "the weights of the attention's output projection",
    "prompt": "the queries of the whole prompt",
    "residual_norms": "the norms of the residual stream",
    "rotation": "the rotation of the whole prompt",
    "replay": "a replay of the prompt",
    "hidden_states": "what each token's attention was given",
}


class LayerWeight:
    """A layer's weight in the split over layers, and whether its scores can be used at all.

    Raises:
        PolicyError: they cannot, named with policy and layer; raised by `value` where the numbers are deferred.
    """

    def __init__(self, policy: Policy, window: ScoringWindow, values: Tensor) -> None:
        self._numbers: Readback | None = Readback(layer_numbers(policy, window, values))
        self._checked = partial(checked_weight, policy, window.layer)
        self._weight = 0.0
        if not self._numbers.deferred:
            self.value()

    @property
    def deferred(self) -> bool:
        """Whether the numbers are still on their way to the host."""
        return self._numbers is not None and self._numbers.deferred

    def value(self) -> float:
        """The weight; waits for it."""
        if self._numbers is not None:
            self._weight, self._numbers = self._checked(self._numbers.get().tolist()), None
        return self._weight


class ScoredLayer(NamedTuple):
    """One sequence in one layer, scored.

    Attributes:
        score: what the policy's score says, float32 `[H, n]` or such scores in two tiers.
        weight: the layer's weight in the split over layers.
    """

    score: Tensor | TieredScores
    weight: LayerWeight

    @property
    def values(self) -> Tensor:
        """The scores alone, float32 `[H, n]`."""
        return self.score.values if isinstance(self.score, TieredScores) else self.score


def score_layer(policy: Policy, window: ScoringWindow) -> ScoredLayer:
    """Score a layer's candidates and weigh the layer, without waiting for a CUDA device.

    Args:
        policy: decides.
        window: the layer's last queries, its keys and values, and what else the policy needs.

    Raises:
        PolicyError: the policy needs what the window lacks, or its scores cannot be used; names the layer. See
            `LayerWeight` for when.
        LavaError: as the policy's score raises it.
    """
    score = policy_scores(policy, window)
    return ScoredLayer(score, LayerWeight(policy, window, score.values if isinstance(score, TieredScores) else score))


def policy_scores(policy: Policy, window: ScoringWindow) -> Tensor | TieredScores:
    """Score a layer's candidates, float32 `[H, n]`.

    Raises:
        PolicyError: the policy needs what the window lacks, its score fails, or its scores are no tensor or have the
            wrong shape; names the layer.
        LavaError: as the score raises it.
        MemoryError, torch.OutOfMemoryError, torch.AcceleratorError: not the policy's fault, so passed on as they are.
    """
    require_needs(policy, window)
    score = _called(policy, window, "score", policy.score)
    parts = tuple(score) if isinstance(score, TieredScores) else (score,)
    expected = (window.queries.shape[0], window.num_evictable)
    for part in parts:
        if not isinstance(part, Tensor):
            fix = "Return a tensor, or TieredScores of two."
            raise policy_error(policy, window.layer, "scores as a tensor", type(part).__name__, fix)
        if tuple(part.shape) != expected:
            fix = "Return one score per KV head and evictable position."
            raise policy_error(policy, window.layer, f"scores of shape {expected}", str(tuple(part.shape)), fix)
    return TieredScores(score[0].float(), score[1]) if isinstance(score, TieredScores) else score.float()


def require_needs(policy: Policy, window: ScoringWindow, besides: Sequence[Need] = ()) -> None:
    """Check that a window has what a policy's score reads.

    Args:
        policy: its needs.
        window: one layer's.
        besides: what is still to come.

    Raises:
        PolicyError: something is missing; names policy and layer.
    """
    for need in policy.needs:
        later = need in ("prompt", "rotation") and window.caps is not None  # a later round has the queries at hand
        if getattr(window, need) is None and not later and need not in besides:
            fix = "Use another policy for this model."
            raise policy_error(policy, window.layer, _MISSING[need], "none", fix)


def layer_numbers(policy: Policy, window: ScoringWindow, values: Tensor) -> Tensor:
    """What `checked_weight` needs, worked out where the scores are, without waiting for them.

    Returns:
        float64 `[numbers]`: 0 if the policy needs a residual stream that is zero throughout the window, else 1; sums
        that are finite if the scores can be used; the layer's weight.

    Raises:
        PolicyError: a layer rule that fails or gives no number; names policy and layer. Other errors as
            `policy_scores`.
    """
    numbers = score_numbers(policy, values, window.caps)
    norms = window.residual_norms if "residual_norms" in policy.needs else None
    stream = numbers.new_ones(1) if norms is None else (norms > 0).any().to(numbers).reshape(1)
    if not callable(policy.layer_rule):
        return torch.cat([stream, numbers])
    weight: Any = _called(policy, window, "layer rule", policy.layer_rule)
    if isinstance(weight, int | float):
        weight = numbers.new_full((1,), float(weight))
    if not isinstance(weight, Tensor) or weight.numel() != 1:
        got = str(tuple(weight.shape)) if isinstance(weight, Tensor) else type(weight).__name__
        fix = "Return one number from the policy's layer rule."
        raise policy_error(policy, window.layer, "one number as the layer's weight", got, fix)
    return torch.cat([stream, numbers[:-1], weight.to(numbers).reshape(1)])


def layer_weight(policy: Policy, window: ScoringWindow, values: Tensor) -> float:
    """Weight of a layer in the split of the sequence's total, by the policy's layer rule.

    Raises:
        PolicyError: scores or a weight that cannot be compared; names policy and layer.
    """
    return LayerWeight(policy, window, values).value()


def _called(policy: Policy, window: ScoringWindow, what: str, function: Callable[[ScoringWindow], Result]) -> Result:
    """What a policy's own function says of a window; whatever it raises names policy and layer."""
    try:
        return function(window)
    except (LavaError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:
        expected, got = f"a {what} that can be computed", f"{type(error).__name__}: {error}"
        raise policy_error(policy, window.layer, expected, got, f"Fix the policy's {what}.") from error
