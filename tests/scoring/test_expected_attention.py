"""Expected Attention against its reference, by hand, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import lavakv
from lavakv import InputError, PolicyError, UnsupportedError
from lavakv.policy.registry import get_policy
from lavakv.scoring.expected_attention import expected_attention_score
from lavakv.scoring.naive.rotation import expected_attention_score_naive, mean_rotation_naive, unrotated_naive
from lavakv.scoring.prompt import PromptRows
from lavakv.scoring.rotation import Rotation
from lavakv.scoring.window import ScoringWindow
from tests.errors import assert_all_parts
from tests.eviction.engine import Engine
from tests.scoring.bounds import EPSILON
from tests.scoring.cases import full_windows, made_up_rotation, naive, pairs


@st.composite
def rotated_windows(draw: st.DrawFn) -> ScoringWindow:
    """Windows whose rows are rotated, without softcap and sinks."""
    window = draw(full_windows(min_evictable=4))
    assume(window.rotation is not None)
    return replace(window, softcap=None, sinks=None)


def _error(window: ScoringWindow) -> tuple[Tensor, Tensor]:
    """How far each query head's exponents may be off, `[H, G, 1]`, and the scores they lead to, `[H, n]`.

    All sums are taken again over absolute values: a rounding moves a sum by at most EPSILON of that, and so many follow
    each other.
    """
    assert window.rotation is not None
    assert window.prompt is not None
    cos, sin = (part.double().abs() for part in window.rotation[:2])
    keys, rows = window.keys[0].double()[:, 4:].abs(), window.prompt.queries.double()[:, :, 4:].abs()
    swapped = rows.roll(rows.shape[3] // 2, dims=3)
    unrotated = (rows * cos[4:] + swapped * sin[4:]) / (cos[4:].square() + sin[4:].square())
    centred = unrotated + unrotated.mean(dim=2, keepdim=True)
    matrix = torch.tensor(mean_rotation_naive(naive(window), 512), dtype=torch.float64).abs()
    mean = unrotated.mean(dim=2) @ matrix.T
    covariance = matrix @ (centred.transpose(2, 3) @ centred / rows.shape[2]) @ matrix.T
    scaled = window.scaling * keys[:, None]
    exponents = (scaled @ mean[..., None])[..., 0] + (scaled @ covariance * scaled).sum(dim=-1) / 2
    # Turned back and forth, a mean, a product of two sums over rows, two turns, two products with the key.
    roundings = 2 * rows.shape[2] + 3 * rows.shape[3] + 40
    return roundings * EPSILON * exponents.amax(dim=2, keepdim=True), exponents


@given(pairs(rotated_windows()))
def test_it_is_the_reference(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    whole = pair[0]
    count = whole.num_evictable
    exact = torch.tensor(expected_attention_score_naive(naive(whole)), dtype=torch.float64).view(len(whole.queries), -1)
    off, _ = _error(whole)
    lengths = whole.values[0].double()[:, 4:count].norm(dim=-1)
    # An exponent that is off by e changes each share by a factor of up to exp(2 e); then the softmax's own sum.
    share_error = (torch.expm1(2 * off) + (whole.num_tokens + 8) * EPSILON).amax(dim=(1, 2))[:, None]
    roundings = (whole.values[0].shape[2] + whole.queries.shape[1] + 8) * EPSILON
    for window in pair:
        score = expected_attention_score(window)
        assert score.protected.tolist() == [[place < 4 for place in range(count)]] * len(whole.queries)
        assert not bool(score.values[:, :4].any())
        bound = exact * (share_error + roundings) + roundings * lengths
        assert bool(((score.values[:, 4:].double() - exact).abs() <= bound).all())


@given(rotated_windows())
def test_a_rotation_is_undone(window: ScoringWindow) -> None:
    assert window.rotation is not None
    assert window.prompt is not None
    cos, sin = (part.tolist() for part in window.rotation[:2])
    rows = zip(window.prompt.queries[0, 0].tolist(), cos, sin, strict=True)
    exact = torch.tensor([unrotated_naive(*row) for row in rows], dtype=torch.float64)
    found = window.rotation.undo(window.prompt.queries, 0)
    sizes = torch.tensor(cos).double().square() + torch.tensor(sin).double().square()
    bound = 8 * EPSILON * 2 * window.prompt.queries[0, 0].double().abs().amax(dim=1, keepdim=True) / sizes.sqrt()
    assert bool(((found[0, 0].double() - exact).abs() <= bound).all())
    again = window.rotation.turn(found)
    torch.testing.assert_close(again, window.prompt.queries, rtol=1e-5, atol=1e-5)


def test_equal_queries_leave_what_they_would_pay() -> None:
    """Without spread and without rotation, the exponent is the logit of the one query there is."""
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(1, 30, 4, generator=generator), torch.randn(1, 30, 4, generator=generator)
    query = torch.randn(4, generator=generator)
    still = Rotation(torch.ones(30, 4), torch.zeros(30, 4), torch.zeros(2))
    rows = query.expand(1, 1, 30, 4)
    window = ScoringWindow(rows[:, :, 26:], [keys], [values], 0.5, prompt=PromptRows(rows), rotation=still)
    paid = (0.5 * keys[0, 4:] @ query).softmax(dim=0)
    expected = (paid + 0.01) * values[0, 4:].norm(dim=1)
    torch.testing.assert_close(expected_attention_score(window).values[0, 4:], expected[:22])


def test_queries_of_the_next_positions_are_those_that_count() -> None:
    """A pair of channels that turns by half a circle a position points nowhere on average; a slow one goes on."""
    angles = torch.arange(10)[:, None] * torch.tensor([math.pi, 0.0, math.pi, 0.0])
    ahead = Rotation(angles.cos(), angles.sin(), torch.tensor([math.pi, 0.0])).mean_ahead(512)
    torch.testing.assert_close(ahead.cos, torch.tensor([[0.0, 1.0, 0.0, 1.0]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "got"),
    [({"softcap": 5.0}, "a logit softcap of 5.0"), ({"sinks": torch.ones(2, 2)}, "attention sinks")],
)
def test_attention_of_another_kind_is_refused_by_name(settings: dict, got: str) -> None:
    rows = torch.randn(2, 2, 20, 4)
    window = ScoringWindow(rows[:, :, 16:], [torch.randn(2, 20, 4)], [torch.randn(2, 20, 4)], 0.5, layer=3, **settings)
    with pytest.raises(UnsupportedError, match="policy 'expected-attention' at layer 3: expected") as caught:
        get_policy("expected-attention").score(window)
    assert_all_parts(caught.value, got=got)


@pytest.mark.parametrize("wrong", [(0, (19, 4)), (1, (20, 3)), (2, (4,))])
def test_rotations_of_other_shapes_are_refused(wrong: tuple[int, tuple[int, ...]]) -> None:
    parts = list(made_up_rotation(20, 4, torch.Generator().manual_seed(0)))
    parts[wrong[0]] = torch.zeros(wrong[1])
    rows = torch.randn(4, 20, 4)
    with pytest.raises(InputError, match="rotation: expected cosines, sines and frequencies") as caught:
        lavakv.scores(
            "expected-attention", rows[:, 16:], rows[:2], rows[:2], prompt_queries=rows, rotation=tuple(parts)
        )
    assert_all_parts(caught.value)


def test_a_later_round_is_refused_before_anything_changes() -> None:
    engine = Engine(get_policy("snapkv"), [2, 1], 12, 3, [0, 2])
    engine.read(20)
    engine.read(9)
    before = engine.kept()
    with pytest.raises(PolicyError, match="policy 'expected-attention': expected a policy that scores") as caught:
        engine.evict(policy=get_policy("expected-attention"))
    assert_all_parts(caught.value)
    assert engine.kept() == before
    engine.evict()
