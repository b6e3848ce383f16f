"""Random prompts for `select`, and what it keeps of them by the controlled policies."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

import lavakv
from lavakv.budgets.split import pyramid_weights
from lavakv.layer_numbers import score_weight
from lavakv.policy import Policy
from lavakv.selection import Selection
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
