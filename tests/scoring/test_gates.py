"""The scores of trained gates, with made-up weights, against loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lavakv.scoring.gates import FastKVzipGate, GatedScore, KVzapGate
from lavakv.scoring.naive.gates import fast_kvzip_naive, gelu_naive, linear_naive, rms_norm_naive
from lavakv.scoring.window import ScoringWindow
from tests.scoring.bounds import EPSILON


def kvzap_gate(heads: int, hidden: int, width: int | None, generator: torch.Generator) -> KVzapGate:
    shapes = [(heads, width or hidden), (heads,), *([(width, hidden), (width,)] if width else [])]
    return KVzapGate(*(torch.randn(shape, generator=generator) for shape in shapes))


def fast_gate(heads: int, group: int, dim: int, sinks: int, hidden: int, generator: torch.Generator) -> FastKVzipGate:
    shapes = [(heads * group * dim, hidden), (heads * group * dim,), (heads * dim, hidden), (dim,), (dim,)]
    shapes += [(heads, sinks, dim), (heads, group)]
    return FastKVzipGate(*(torch.randn(shape, generator=generator) for shape in shapes))


def window(hidden_states: Tensor, heads: int, rows: int, block: int = 2**24, layer: int = 0) -> ScoringWindow:
    keys = torch.zeros(heads, len(hidden_states), 2)
    queries = torch.zeros(heads, 1, rows, 2)
    return ScoringWindow(
        queries, [keys], [keys], 1.0, layer=layer, hidden_states=hidden_states, max_block_elements=block
    )


def _exact(gate: KVzapGate, token: list[float]) -> tuple[list[float], float]:
    """Scores of all heads by loops, and how far float32 may be: a rounding a product, carried through both maps."""
    error, size = 0.0, [abs(x) for x in token]
    if gate.first_weight is not None and gate.first_bias is not None:
        token = linear_naive(token, gate.first_weight.tolist(), gate.first_bias.tolist())
        sizes = linear_naive(size, gate.first_weight.abs().tolist(), gate.first_bias.abs().tolist())
        error = (len(size) + 8) * EPSILON * max(sizes)  # GELU changes by at most 1.13 times its argument's change
        token, size = [gelu_naive(x) for x in token], sizes
    largest = max(linear_naive(size, gate.weight.abs().tolist(), gate.bias.abs().tolist()))
    carried = 1.13 * error * float(gate.weight.abs().sum(dim=1).max()) + (len(size) + 2) * EPSILON * largest
    return linear_naive(token, gate.weight.tolist(), gate.bias.tolist()), carried


@given(
    st.integers(1, 3),
    st.integers(1, 6),
    st.sampled_from([None, 1, 5]),
    st.integers(0, 9),
    st.integers(0, 2**31),
    st.sampled_from([1, 100, 2**24]),
)
def test_kvzap_equals_the_loops(heads: int, hidden: int, width: int | None, n: int, seed: int, block: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gate, states = kvzap_gate(heads, hidden, width, generator), torch.randn(n + 2, hidden, generator=generator)
    scores = GatedScore([gate], keeps_first=False)(window(states, heads, 2, block))
    assert scores.shape == (heads, n)
    assert scores.dtype == torch.float32
    for place in range(n):
        exact, error = _exact(gate, states[place].tolist())
        assert bool(((scores[:, place].double() - torch.tensor(exact, dtype=torch.float64)).abs() <= error).all())


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1, 4]),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(0, 2**31),
    st.sampled_from([1, 2**24]),
)
def test_fast_kvzip_equals_the_loops(
    heads: int, group: int, dim: int, sinks: int, hidden: int, seed: int, block: int
) -> None:
    """In float64, where rounding of the loops' order is all that can differ."""
    generator = torch.Generator().manual_seed(seed)
    gate, states = fast_gate(heads, group, dim, sinks, hidden, generator), torch.randn(9, hidden, generator=generator)
    gate, states = FastKVzipGate(*(part.double() for part in gate)), states.double()
    scores = gate.score(states)
    for place in range(9):
        queries = linear_naive(states[place].tolist(), gate.query_weight.tolist(), gate.query_bias.tolist())
        keys = linear_naive(states[place].tolist(), gate.key_weight.tolist(), [0.0] * heads * dim)
        for head in range(heads):
            own = [queries[(head * group + one) * dim :][:dim] for one in range(group)]
            normed = [rms_norm_naive(query, gate.query_norm.tolist()) for query in own]
            key = rms_norm_naive(keys[head * dim :][:dim], gate.key_norm.tolist())
            exact = fast_kvzip_naive(normed, key, gate.base_keys[head].tolist(), gate.bias[head].tolist())
            assert float(scores[head, place].exp()) == pytest.approx(exact, rel=1e-9)
    small = FastKVzipGate(*(part.float() for part in gate))
    found = GatedScore([small], keeps_first=True)(window(states.float(), heads, 1, block))
    assert found.dtype == torch.float32
    assert found[:, :4].tolist() == [[4.0, 3.0, 2.0, 1.0]] * heads
    assert bool((found[:, 4:] <= 0).all())
    torch.testing.assert_close(found[:, 4:], scores[:, 4:8].float(), rtol=1e-4, atol=1e-4)


def test_a_share_stays_finite_where_a_logit_is_large() -> None:
    gate = FastKVzipGate(torch.ones(1, 1), torch.zeros(1), -torch.ones(1, 1), torch.full((1,), 300.0), torch.ones(1),
                         torch.full((1, 2, 1), 300.0), torch.zeros(1, 1))  # fmt: skip
    score = gate.score(torch.ones(1, 1))
    assert bool(score.isfinite().all())
    assert float(score) == pytest.approx(-300 - 300 * 300 - math.log(2), rel=1e-5)


def test_each_layer_has_its_own_gate() -> None:
    generator = torch.Generator().manual_seed(0)
    gates, states = [kvzap_gate(2, 3, None, generator) for _ in range(3)], torch.randn(6, 3, generator=generator)
    score = GatedScore(gates, keeps_first=False)
    for layer in (0, 2, 1):
        assert torch.equal(score(window(states, 2, 1, layer=layer)), gates[layer].score(states[:5]))
