"""Survivors of every policy of `method.md`, section "The family"; written apart from lavakv."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch

from tests.oracle import (
    family_changes,
    family_neighbours,
    family_noise,
    family_replay,
    family_residual,
    family_residual_far,
    family_residual_max,
    family_rotation,
)
from tests.oracle import family_outputs as outputs
from tests.oracle import family_scores as scores
from tests.oracle.family_view import Ranking, View
from tests.oracle.forwards import Capture
from tests.oracle.reference import divide, entropy

FLOOR_SHARE = Fraction(1, 5)
GUARANTEED = Fraction(1, 10)


@dataclass(frozen=True)
class Rules:
    """The three choices of a policy: a score, how heads share a layer's total, how layers share the sequence's."""

    score: Callable[[View, int], Ranking]
    heads: str
    layers: str


POLICIES = {
    "lava": Rules(scores.lava, "pooled", "entropy"),
    "lava-uniform-layers": Rules(scores.lava, "pooled", "equal"),
    "lava-uniform-heads": Rules(scores.lava, "equal", "entropy"),
    "snapkv": Rules(scores.snapkv, "equal", "equal"),
    "pyramidkv": Rules(scores.snapkv, "equal", "pyramid"),
    "ada-snapkv": Rules(scores.snapkv, "pooled", "equal"),
    "ada-pyramidkv": Rules(scores.snapkv, "pooled", "pyramid"),
    "chunkkv": Rules(family_neighbours.in_chunks(scores.snapkv), "equal", "equal"),
    "cake": Rules(scores.cake, "equal", "cake"),
    "vatp": Rules(scores.vatp, "pooled", "entropy"),
    "criticalkv": Rules(outputs.criticalkv, "pooled", "equal"),
    "defensivekv": Rules(outputs.defensivekv, "pooled", "equal"),
    "layer-defensivekv": Rules(outputs.defensivekv, "one pool", "one pool"),
    "caote": Rules(family_changes.caote, "equal", "equal"),
    "dropkv": Rules(family_changes.dropkv, "equal", "equal"),
    "laprox": Rules(outputs.laprox, "one pool", "bare pool"),
    "residual": Rules(family_residual.residual, "one pool", "one pool"),
    "residual-far": Rules(family_residual_far.residual_far, "one pool", "one pool"),
    "residual-max": Rules(family_residual_max.residual_max, "one pool", "one pool"),
    "reach": Rules(family_rotation.reach, "one pool", "one pool"),
    "reach-question": Rules(family_rotation.reach_question, "one pool", "one pool"),
    "kvzip": Rules(family_replay.kvzip, "one pool", "one pool, nothing sure"),
    "kvzip+": Rules(family_replay.kvzip_plus, "one pool", "one pool, nothing sure"),
    "h2o": Rules(scores.h2o, "equal", "equal"),
    "tova": Rules(scores.tova, "equal", "equal"),
    "streaming-llm": Rules(scores.streaming_llm, "equal", "equal"),
    "knorm": Rules(scores.knorm, "equal", "equal"),
    "keydiff": Rules(scores.keydiff, "equal", "equal"),
    "lagkv": Rules(family_neighbours.lagkv, "equal", "equal"),
    "r-kv": Rules(family_neighbours.rkv, "equal", "equal"),
    "curdkv": Rules(family_neighbours.curdkv, "equal", "equal"),
    "expected-attention": Rules(family_rotation.expected_attention, "pooled", "equal"),
    "compactor": Rules(family_rotation.compactor, "equal", "equal"),
    "random": Rules(family_noise.random, "equal", "equal"),
}


def views(captures: dict[int, Capture], window: int = 32, dtype: torch.dtype = torch.float32, **sequence) -> list[View]:
    """Views of all layers, to be used for many policies; `sequence` and `num_padding` as `View` takes them."""
    found: list[View] = []
    for layer, capture in captures.items():
        found.append(View(capture, window, dtype=dtype, layer=layer, earlier=tuple(found), **sequence))
    return found


def survivors(layers: Sequence[View], policy: str, budget: int) -> list[list[list[int]]]:
    """Kept positions, ascending, by layer and KV head."""
    rules, window, evictable = POLICIES[policy], layers[0].window, layers[0].num_evictable
    if evictable + window <= budget:
        return [[list(range(evictable + window)) for _ in view.heads] for view in layers]
    keep = budget - window
    rankings = [rules.score(view, keep) for view in layers]
    if rules.heads == "one pool":
        places = one_pool(rankings, keep, GUARANTEED if rules.layers == "one pool" else Fraction(0))
    else:
        total = keep * sum(len(view.heads) for view in layers)
        weights = layer_weights(rules.layers, layers, rankings, keep)
        totals = divide(total, weights, [evictable * len(view.heads) for view in layers])
        places = [within_layer(*pair, rules.heads) for pair in zip(rankings, totals, strict=True)]
    recent = list(range(evictable, evictable + window))
    return [[sorted(head) + recent for head in heads] for heads in places]


def layer_weights(rule: str, layers: Sequence[View], rankings: Sequence[Ranking], keep: int) -> list[Fraction]:
    """What the layers' totals are in proportion to."""
    if rule == "entropy":
        return [Fraction(entropy(ranking.scores)) for ranking in rankings]
    if rule == "cake":
        return [Fraction(_spread(view) * _unrest(view)) for view in layers]
    if rule == "pyramid":
        line = pyramid(len(layers), keep, layers[0].num_evictable)
        return [part * len(view.heads) for part, view in zip(line, layers, strict=True)]
    return [Fraction(1)] * len(layers)


def pyramid(num_layers: int, mean: int, evictable: int, beta: int = 20) -> list[Fraction]:
    """A head's evictable entries by layer, on a falling line whose mean is `mean`."""
    first, last = 2 * mean - Fraction(mean, beta), Fraction(mean, beta)
    if first > evictable:
        first, last = Fraction(evictable), Fraction(2 * mean - evictable)
    if num_layers == 1:
        return [Fraction(mean)]
    return [first + (last - first) * Fraction(layer, num_layers - 1) for layer in range(num_layers)]


def _spread(view: View) -> float:
    """CAKE's entropy of a layer: `-Σ A ln A`."""
    return math.fsum(torch.special.entr(rows.double()).sum().item() for rows in view.seen)


def _unrest(view: View) -> float:
    """CAKE's sum of variances over the window's rows."""
    return math.fsum(value for rows in view.seen for value in rows.var(dim=0, correction=1).tolist())


def within_layer(ranking: Ranking, total: int, rule: str) -> list[list[int]]:
    """Evictable positions that each head of a layer keeps."""
    heads, capacities = range(len(ranking.scores)), [len(row) for row in ranking.scores]
    weights = [Fraction(1)] * len(heads)
    if rule == "pooled":
        everyone = [ranking.rank(head, place) for head in heads for place in range(capacities[head])]
        winners = [head for *_, head, _ in sorted(everyone)[:total]]
        floor = FLOOR_SHARE * Fraction(total, len(heads))
        weights = [(1 - FLOOR_SHARE) * winners.count(head) + floor for head in heads]
    counts = divide(total, weights, capacities)
    return [ranking.best_first(head)[:count] for head, count in zip(heads, counts, strict=True)]


def one_pool(rankings: Sequence[Ranking], keep: int, guaranteed: Fraction = GUARANTEED) -> list[list[list[int]]]:
    """Positions by layer and head where all heads of all layers compete, a part of the mean guaranteed to each."""
    sure = math.floor(guaranteed * keep)
    everyone = []
    for layer, ranking in enumerate(rankings):
        for head in range(len(ranking.scores)):
            for order, place in enumerate(ranking.best_first(head)):
                later, score, *_ = ranking.rank(head, place)
                everyone.append((order >= sure, later, score, layer, head, place))
    kept: list[list[list[int]]] = [[[] for _ in ranking.scores] for ranking in rankings]
    for *_, layer, head, place in sorted(everyone)[: keep * sum(len(ranking.scores) for ranking in rankings)]:
        kept[layer][head].append(place)
    return kept
