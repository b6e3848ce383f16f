"""Compactor against its reference, its parts by hand, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lavakv import PolicyError, UnsupportedError
from lavakv.policy.registry import get_policy
from lavakv.scoring.compactor import attended, compactor_score, gaussian_sketch, key_leverage, standardized
from lavakv.scoring.naive.compactor import (
    attended_naive,
    compactor_score_naive,
    gaussian_sketch_naive,
    key_leverage_naive,
    standardized_naive,
)
from lavakv.scoring.prompt import PromptRows
from lavakv.scoring.window import ScoringWindow
from tests.errors import assert_all_parts
from tests.eviction.engine import Engine
from tests.scoring.bounds import EPSILON
from tests.scoring.cases import made_up_rotation, naive, pairs


@st.composite
def prompts(draw: st.DrawFn) -> ScoringWindow:
    """Prompts with something between the first 8 and the last 4 tokens."""
    heads, group, rows, count = (
        draw(st.integers(1, 3)),
        draw(st.sampled_from([1, 2])),
        draw(st.integers(1, 6)),
        draw(st.integers(13, 30)),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    queries = torch.randn(heads, group, count, 4, generator=generator)
    keys, values = torch.randn(heads, count, 4, generator=generator), torch.randn(heads, count, 3, generator=generator)
    return ScoringWindow(
        queries[:, :, count - rows :], [keys + draw(st.sampled_from([0.0, 5.0]))], [values], 0.5,
        tokens_per_head=draw(st.integers(rows + 1, count + 2)), prompt=PromptRows(queries),
        rotation=made_up_rotation(count, 4, generator),
    )  # fmt: skip


def _exact(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _leverage_error(window: ScoringWindow) -> float:
    """Sketched keys are off by a rounding a term; what that does to `x G^-1 x` by its first derivatives, twice over."""
    assert window.rotation is not None
    sketch, worst = _exact(gaussian_sketch_naive(window.keys[0].shape[2])), 0.0
    for keys in window.keys[0]:
        plain = window.rotation.undo(keys, 0).double()[8:-4]
        sizes = plain.abs().amax() * (8 + 2 * plain.shape[1] + len(plain)) * EPSILON * sketch.abs().sum(dim=0).amax()
        rows = plain @ sketch
        rows = rows - rows.mean(dim=0)
        solved = torch.linalg.solve(rows.T @ rows + 0.01 * torch.eye(48).double(), rows.T).abs().sum(dim=0)
        gram = 2 * rows.abs().sum(dim=0).amax() * sizes
        worst = max(worst, float((2 * solved * sizes + solved.square() * gram).amax()))
    return 2 * worst + 4 * EPSILON


def _attended_error(window: ScoringWindow) -> float:
    assert window.prompt is not None
    products = window.prompt.queries.double().abs() @ window.keys[0].double()[:, None].abs().transpose(2, 3)
    rows, values = products.shape[2], window.values[0].double().norm(dim=-1)
    share = math.expm1(2 * window.keys[0].shape[2] * EPSILON * float(products.max())) + (rows + 8) * EPSILON
    return (share * rows + (rows + 16) * EPSILON * rows) * float(values.max())


def _standardized_error(exact: Tensor, error: float) -> float:
    """Mean and spread are off by as much at most; where the spread may be nothing, all is lost."""
    spread = float(exact.std()) if exact.numel() > 1 else 0.0
    least = max(spread - 2 * error, 1e-6)
    deviation = float((exact - exact.mean()).abs().max())
    return 2 * error / least + deviation * 2 * error / (least * max(spread, 1e-6)) + 4 * EPSILON * deviation / least


@given(pairs(prompts()))
def test_it_is_the_reference(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    whole, heads = pair[0], range(len(pair[0].queries))
    exact, twin, count = _exact(compactor_score_naive(naive(whole))), naive(whole), whole.num_evictable
    parts = [_exact([part(twin, head) for head in heads]) for part in (key_leverage_naive, attended_naive)]
    bound = sum(map(_standardized_error, parts, (_leverage_error(whole), _attended_error(whole)))) + 1e-12
    middle = range(8, min(whole.num_tokens - 4, count))
    for window in pair:
        score = compactor_score(window)
        assert score.protected.tolist() == [[place not in middle for place in range(count)]] * len(heads)
        found = score.values[:, 8 : middle.stop] if len(middle) else score.values[:, :0]
        expected = exact[:, : len(middle)]
        assert bool(((found.double() - expected).abs() <= bound + 4 * EPSILON * expected.abs()).all())
        assert not bool(score.values[:, :8].any())


def _long(count: int = 300) -> ScoringWindow:
    generator = torch.Generator().manual_seed(1)
    queries, keys, values = (torch.randn(1, 1, count, 4, generator=generator) for _ in range(3))
    return ScoringWindow(
        queries[:, :, -8:], [keys[0]], [values[0]], 0.5, tokens_per_head=40, prompt=PromptRows(queries),
        rotation=made_up_rotation(count, 4, generator),
    )  # fmt: skip


def test_a_prompt_of_several_chunks() -> None:
    window = _long()
    found = attended(window, window.keys[0][:, 8:-4])
    error = _attended_error(window)
    exact = _exact([attended_naive(naive(window), 0)])
    assert float((found.double() - exact).abs().max()) <= error < exact.std()
    small = replace(window, max_block_elements=1000)
    again = attended(small, small.keys[0][:, 8:-4])
    assert float((again.double() - exact).abs().max()) <= error
    torch.testing.assert_close(
        key_leverage(small, small.keys[0][0, 8:-4]), key_leverage(window, window.keys[0][0, 8:-4])
    )


def test_a_token_attends_to_later_ones_of_its_chunk_alone() -> None:
    """All look at one token: those of its chunk see it, before and behind it, those of the other chunk do not."""
    window = _long(8 + 256 + 40 + 4)
    keys = torch.zeros_like(window.keys[0])
    keys[0, 8 + 100] = 100.0
    assert window.prompt is not None
    looking = replace(
        window, keys=[keys], values=[torch.ones_like(keys)], prompt=PromptRows(torch.ones_like(window.prompt.queries))
    )
    received = attended(looking, keys[:, 8:-4])[0] / 2  # a value's length
    torch.testing.assert_close(received[99:102], torch.full((3,), 256 / 3))
    torch.testing.assert_close(received[257:-1], torch.full((38,), 1 + 216 / 256))  # 216 rows are missing


def test_the_sketch_is_the_reference_and_normal() -> None:
    sketch = gaussian_sketch(64, torch.device("cpu"))
    torch.testing.assert_close(sketch, _exact(gaussian_sketch_naive(64)).float())
    assert abs(float(sketch.mean())) < 3 / math.sqrt(64 * 48 * 48)
    assert abs(float(sketch.square().sum(dim=1).mean()) - 1) < 3 * math.sqrt(2 / (64 * 48))


def test_leverage_of_a_key_unlike_all_others_is_one() -> None:
    window = _long()
    assert window.rotation is not None
    plain = torch.randn(300, 4) * torch.tensor([1.0, 1.0, 1.0, 0.0])
    plain[150, 3] = 1000.0
    keys = replace(window, keys=[(plain * window.rotation.cos + _half(plain) * window.rotation.sin)[None]]).keys[0]
    leverage = key_leverage(window, keys[0, 8:-4])
    assert float(leverage[142]) > 0.98
    assert float(leverage.sum()) == pytest.approx(4, abs=0.1)  # the rank of the keys


def _half(vectors: Tensor) -> Tensor:
    return torch.cat([-vectors[:, 2:], vectors[:, :2]], dim=1)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=9))
def test_standardized_is_the_reference(numbers: list[float]) -> None:
    rows = torch.tensor([numbers], dtype=torch.float32)
    expected = _exact(standardized_naive(rows.double().tolist()))
    torch.testing.assert_close(standardized(rows).double(), expected, rtol=1e-5, atol=1e-6)


def test_leverage_counts_for_as_much_as_goes() -> None:
    window = _long()
    little, much = (compactor_score(replace(window, tokens_per_head=kept)).values[0, 8:] for kept in (30, 270))
    parts = key_leverage(window, window.keys[0][0, 8:-4])[None]
    torch.testing.assert_close(little - much, 0.8 * standardized(parts)[0, : len(little)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "got"),
    [({"softcap": 5.0}, "a logit softcap of 5.0"), ({"sinks": torch.ones(1, 1)}, "attention sinks")],
)
def test_attention_of_another_kind_is_refused_by_name(settings: dict, got: str) -> None:
    with pytest.raises(UnsupportedError, match="policy 'compactor' at layer 3: expected attention without") as caught:
        compactor_score(replace(_long(), layer=3, **settings))
    assert_all_parts(caught.value, got=got)


def test_a_later_round_is_refused() -> None:
    engine = Engine(get_policy("snapkv"), [2], 12, 3, [0])
    engine.read(20)
    with pytest.raises(PolicyError, match="policy 'compactor': expected a policy that scores"):
        engine.evict(policy=get_policy("compactor"))
