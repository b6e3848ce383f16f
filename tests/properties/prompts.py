"""Random prompts for `select`, and what it keeps of them by the controlled policies."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import strategies as st

import lavakv
from lavakv.budgets.split import pyramid_weights
from lavakv.policy.numbers import checked_weight, score_numbers, score_weight
from lavakv.policy.rules import Policy
from lavakv.scoring.tiers import TieredScores
from lavakv.selection.kept import Selection
from tests.eviction.controlled import controlled_scores, controlled_weights


@st.composite
def prompts(draw: st.DrawFn) -> list[torch.Tensor]:
    """Scores of one to five layers of unequal head counts, full of ties; some layers are all zeros."""
    generator, evictable = _generator(draw), draw(st.integers(0, 11))
    shapes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=5))
    return [torch.randint(0, most, (heads, evictable), generator=generator).float() for heads, most in shapes]


@st.composite
def prompts_without_ties(draw: st.DrawFn) -> list[torch.Tensor]:
    """The same with every score another."""
    generator, evictable = _generator(draw), draw(st.integers(1, 11))
    heads = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    scores = torch.randperm(sum(heads) * evictable, generator=generator) + 1.0
    parts = scores.split([count * evictable for count in heads])
    return [part.view(-1, evictable) for part in parts]


class Ragged(NamedTuple):
    """A sequence whose heads hold unequally many candidates.

    Attributes:
        layers: scores `[heads, places]` of each layer, anything in empty places.
        caps: int64 `[heads]` of each layer.
    """

    layers: list[torch.Tensor]
    caps: list[torch.Tensor]

    @property
    def rows(self) -> list[list[list[float]]]:
        """Scores of the candidates."""
        pairs = zip(self.layers, self.caps, strict=True)
        return [[row[:cap].tolist() for row, cap in zip(layer, caps, strict=True)] for layer, caps in pairs]

    def marks(self, policy: Policy) -> list[list[list[bool]]] | None:
        """Which of the candidates a policy of two tiers protects."""
        scores = [controlled_scores(policy, layer) for layer in self.layers]
        if not isinstance(scores[0], TieredScores):
            return None
        pairs = [(score.outright, caps) for score, caps in zip(scores, self.caps, strict=True)]  # type: ignore[union-attr]
        return [[row[:cap].tolist() for row, cap in zip(marks, caps, strict=True)] for marks, caps in pairs]


@st.composite
def ragged(draw: st.DrawFn) -> Ragged:
    """Full of ties, layers of unequal width and head count, some heads empty, garbage in empty places."""
    generator = _generator(draw)
    shapes = draw(
        st.lists(st.tuples(*[st.integers(1, 4), st.integers(0, 9), st.integers(1, 9)]), min_size=1, max_size=4)
    )
    layers, caps = [], []
    for heads, places, most in shapes:
        held = torch.randint(0, places + 1, (heads,), generator=generator)
        scores = torch.randint(0, most, (heads, places), generator=generator).float()
        garbage = draw(st.sampled_from([float("nan"), float("inf"), -1.0, 99.0]))
        layers.append(scores.masked_fill(torch.arange(places) >= held[:, None], garbage))
        caps.append(held)
    return Ragged(layers, caps)


def _generator(draw: st.DrawFn) -> torch.Generator:
    return torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))


def kept_rows(selection: Selection, layers: list[torch.Tensor]) -> list[list[list[int]]]:
    """As lists; checks the padding."""
    by_layer = []
    for rows, counts, layer in zip(selection.positions, selection.counts.tolist(), layers, strict=True):
        assert counts[layer.shape[0] :] == [0] * (len(counts) - layer.shape[0])
        for row, count in zip(rows, counts, strict=True):
            assert bool((row[:count] >= 0).all())
            assert bool((row[count:] == -1).all())
        by_layer.append([row[:count].tolist() for row, count in zip(rows, counts, strict=True)][: layer.shape[0]])
    return by_layer


def selected(policy: Policy, layers: list[torch.Tensor], budget: int, window: int) -> Selection:
    """What `select` keeps of a controlled policy's scores."""
    weights = controlled_weights(policy, layers) if layers[0].numel() else None
    scores = [controlled_scores(policy, layer) for layer in layers]
    return lavakv.select(policy, scores, budget, window, layer_weights=weights)


def weights_of(policy: Policy, layers: list[torch.Tensor], mean: int) -> list[float]:
    """Layer weights as the fast functions make them: each has a twin of its own, and rounding may break ties."""
    if policy.layer_rule == "pyramid":
        return pyramid_weights(mean, layers[0].shape[1], [len(layer) for layer in layers])
    own = controlled_weights(policy, layers)
    return own or [score_weight(policy, layer, i) for i, layer in enumerate(layers)]


def ragged_weights(policy: Policy, sequence: Ragged, mean: int) -> list[float]:
    """The same for heads that hold unequally many candidates; any numbers for a rule that is a function."""
    if policy.layer_rule == "pyramid":
        first = int(sequence.caps[0].sum()) // len(sequence.caps[0])
        return pyramid_weights(mean, first, [len(caps) for caps in sequence.caps])
    if callable(policy.layer_rule):
        return [float(1 + layer % 2) for layer in range(len(sequence.layers))]
    pairs = enumerate(zip(sequence.layers, sequence.caps, strict=True))
    return [checked_weight(policy, i, [1.0, *score_numbers(policy, *pair).tolist()]) for i, pair in pairs]
