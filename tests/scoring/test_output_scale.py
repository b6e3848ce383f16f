"""Scores in the stream's units where a norm stands between the output projection and the stream."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavakv.policy.apply import policy_scores
from lavakv.policy.registry import get_policy
from lavakv.scoring.output_scale import OutputScale
from lavakv.scoring.window import ScoringWindow
from tests.scoring.cases import full_windows

OURS = ("residual", "residual-far", "residual-max")
FIELD = ("laprox", "kvzip+")


@st.composite
def _scaled(draw: st.DrawFn) -> tuple[ScoringWindow, ScoringWindow]:
    """A window behind a norm, and one whose projection and stream have what the norm does in them."""
    window = draw(full_windows())
    assert window.output_weight is not None
    assert window.residual_norms is not None
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    gain = torch.randn(window.output_weight.shape[-1], generator=generator)
    rms = torch.rand(window.residual_norms.shape, generator=generator) + 0.1
    plain = {"output_weight": window.output_weight * gain, "residual_norms": window.residual_norms * rms}
    window = replace(window, tokens_per_head=10)
    return replace(window, output_scale=OutputScale(gain, rms)), replace(window, **plain)


@pytest.mark.parametrize("name", OURS)
@given(pair=_scaled())
def test_the_gain_counts_as_a_part_of_the_projection_and_the_output_as_one_of_the_stream(
    name: str, pair: tuple[ScoringWindow, ScoringWindow]
) -> None:
    policy = get_policy(name)
    torch.testing.assert_close(*(policy_scores(policy, window) for window in pair))


@pytest.mark.parametrize("name", FIELD)
@given(pair=_scaled())
def test_policies_of_others_score_as_their_papers_say(name: str, pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    policy, scaled = get_policy(name), pair[0]
    alone = policy_scores(policy, replace(scaled, output_scale=None))
    assert policy_scores(policy, scaled).equal(alone)
