"""Policies whose scores tests control: one for each rule, in one tier and in two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lavakv.policy.registry import get_policy
from lavakv.policy.rules import Policy
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow

BUILT_IN = ("lava", "lava-uniform-layers", "lava-uniform-heads")


def scores_are_keys(window: ScoringWindow) -> Tensor:
    """The score tests control: an entry's first key component."""
    return torch.cat(list(window.keys), dim=1)[:, : window.num_evictable, 0]


def marked(scores: Tensor) -> TieredScores:
    """The same scores, with some entries kept outright: more of them in later heads, whatever they score."""
    heads, positions = torch.arange(scores.shape[0])[:, None], torch.arange(scores.shape[1])
    return TieredScores(scores, (7 * positions + heads) % 10 < 2 + 3 * (heads % 2))


def marked_scores_are_keys(window: ScoringWindow) -> TieredScores:
    """The same in two tiers."""
    return marked(scores_are_keys(window))


def largest_score(window: ScoringWindow) -> Tensor:
    """A layer rule of its own."""
    return scores_are_keys(window).amax().double()


CONTROLLED = {
    policy.name: policy
    for policy in (
        *(replace(get_policy(name), score=scores_are_keys) for name in BUILT_IN),
        Policy("pyramid", "early layers get more", scores_are_keys, "pooled", "pyramid"),
        Policy("tiers", "two tiers", marked_scores_are_keys, "pooled", "entropy"),
        Policy("pool", "one pool", scores_are_keys, "pooled", "pool", floor_share=0.1),
        Policy("tiered-pool", "one pool, two tiers", marked_scores_are_keys, "pooled", "pool", floor_share=0.1),
        Policy("half-pool", "one pool, half of it sure", scores_are_keys, "pooled", "pool", floor_share=0.5),
        Policy("function", "a rule of its own", scores_are_keys, "pooled", largest_score),
    )
}


def controlled_scores(policy: Policy, scores: Tensor) -> Tensor | TieredScores:
    """What a controlled policy makes of keys whose first components are `scores`."""
    return marked(scores) if policy.score is marked_scores_are_keys else scores


def controlled_weights(policy: Policy, scores: Sequence[Tensor]) -> list[float] | None:
    """What `select` must be told about the layers of a controlled policy."""
    return [float(layer.amax()) for layer in scores] if policy.layer_rule is largest_score else None
