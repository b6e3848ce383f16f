"""What holds for every score of the family, hostile windows included."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import lavakv
from lavakv.policy.apply import LayerWeight, policy_scores
from lavakv.policy.registry import get_policy
from lavakv.scoring.prompt import PromptRows, ReplayMaxima
from lavakv.scoring.rotation import Rotation
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow
from lavakv.selection.ranking import rank
from tests.scoring.cases import full_windows

EVERY = pytest.mark.parametrize("name", lavakv.policies())
names = st.sampled_from(list(lavakv.policies()))
BY_POSITION = (
    "streaming-llm",
    "random",
    "h2o",
    "cake",
    "defensivekv",
    "layer-defensivekv",
    "laprox",
    "residual-max",
    "reach",
    "reach-question",
    "dropkv",
    "lagkv",
    "curdkv",
    "expected-attention",
    "compactor",
    "kvzip",
    "kvzip+",
)


def _parts(name: str, window: ScoringWindow) -> tuple[torch.Tensor, ...]:
    score = policy_scores(get_policy(name), window)
    return tuple(score) if isinstance(score, TieredScores) else (score,)


def _flat(tokens: int = 30, rows: int = 4) -> ScoringWindow:
    """Keys of zero and values of one: nothing tells one position from another."""
    chunk = torch.zeros(2, tokens, 4)
    prompt, weight = PromptRows(torch.ones(2, 2, tokens, 4)), torch.ones(2, 2, 4, 3)
    queries = prompt.queries[:, :, tokens - rows :]
    rotation = Rotation(torch.ones(tokens, 4), torch.zeros(tokens, 4), torch.zeros(2))
    replay = ReplayMaxima(*torch.full((2, 2, 2, tokens), 0.5))
    extras = {"output_weight": weight, "prompt": prompt, "residual_norms": torch.ones(rows), "rotation": rotation}
    return ScoringWindow(queries, [chunk], [chunk + 1], 1.0, tokens_per_head=12, replay=replay, **extras)


@given(full_windows(), names)
def test_scores_are_finite_float32_and_can_be_weighed(window: ScoringWindow, name: str) -> None:
    if "rotation" in get_policy(name).needs:
        assume(window.rotation is not None)
        window = replace(window, softcap=None, sinks=None)
    values = _parts(name, window)[0]
    assert values.dtype == torch.float32
    assert values.shape == (window.queries.shape[0], window.num_evictable)
    assert bool(values.isfinite().all())
    assert LayerWeight(get_policy(name), window, values).value() >= 0


@EVERY
@pytest.mark.parametrize(("tokens", "rows"), [(1, 1), (3, 3), (2, 1), (4, 1), (6, 3), (7, 4)])
def test_the_smallest_prompts(name: str, tokens: int, rows: int) -> None:
    """No, one or fewer evictable positions than the pooling's kernel; one row, one head, one query head."""
    window = _flat(tokens, rows)
    for one in (window, _first_head(window)):
        for part in _parts(name, one):
            assert part.shape == (one.queries.shape[0], tokens - rows)
            assert bool(part.isfinite().all())


@pytest.mark.parametrize("name", [name for name in lavakv.policies() if name not in BY_POSITION])
def test_where_nothing_differs_all_scores_are_equal_and_earlier_positions_win(name: str) -> None:
    window = _flat()
    score = policy_scores(get_policy(name), window)
    values = score.values if isinstance(score, TieredScores) else score
    assert values.unique().numel() == 1
    assert rank(score).positions.tolist() == [list(range(26))] * 2
    given = [1.0, 1.0] if callable(get_policy(name).layer_rule) else None
    selection = lavakv.select(name, [score, score], budget=12, window=4, layer_weights=given)
    tail = list(range(26, 30))
    for counts, rows in zip(selection.counts.tolist(), selection.positions, strict=True):
        for count, row in zip(counts, rows, strict=True):
            assert row[:count].tolist() == [*range(count - 4), *tail]


@pytest.mark.parametrize("name", ["cake", "defensivekv", "layer-defensivekv", "residual-max"])
def test_average_pooling_lowers_flat_scores_at_the_borders_only(name: str) -> None:
    values = _parts(name, _flat())[0]
    torch.testing.assert_close(values[:, 2:-2], values[:, 2:3].expand(-1, 22), rtol=1e-6, atol=0)
    assert bool((values[:, [0, 1, -2, -1]] < values[:, 2:3]).all())


@EVERY
def test_another_layer_changes_noise_alone(name: str) -> None:
    window = _flat()
    same = torch.equal(_parts(name, window)[0], _parts(name, replace(window, layer=1))[0])
    assert same == (name != "random")


@EVERY
def test_heads_are_scored_apart_but_for_those_that_compare_them(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, 30, 4, generator=generator), torch.randn(2, 30, 4, generator=generator)
    window = replace(_flat(), keys=[keys], values=[values])
    whole, first = _parts(name, window), _parts(name, _first_head(window))
    if name in ("tova", "chunkkv"):
        assert torch.equal(whole[0][0], whole[0][1])
    if name in ("tova", "chunkkv", "compactor", "laprox"):
        return
    for part, alone in zip(whole, first, strict=True):
        torch.testing.assert_close(part[:1], alone, rtol=1e-5, atol=1e-7)


def _first_head(window: ScoringWindow) -> ScoringWindow:
    assert window.output_weight is not None
    assert window.prompt is not None
    assert window.replay is not None
    return replace(
        window,
        queries=window.queries[:1],
        keys=[window.keys[0][:1]],
        values=[window.values[0][:1]],
        output_weight=window.output_weight[:1],
        prompt=PromptRows(window.prompt.queries[:1]),
        replay=ReplayMaxima(*(part[:1] for part in window.replay if part is not None)),
    )
