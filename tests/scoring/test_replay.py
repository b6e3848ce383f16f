from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import lavakv
from lavakv import InputError, PolicyError
from lavakv.scoring.kvzip import kvzip_plus_score, kvzip_score
from lavakv.scoring.naive.replay import NaiveReplay, kvzip_naive, kvzip_plus_naive
from lavakv.scoring.prompt import ReplayMaxima
from lavakv.scoring.replay import ReplayRows, chunk_maxima
from lavakv.scoring.window import ScoringWindow
from tests.errors import assert_all_parts
from tests.scoring.bounds import EPSILON
from tests.scoring.cases import full_windows, largest_difference


@dataclass
class Chunk:
    """The rows of a chunk and the constants of their attention."""

    rows: ReplayRows
    scaling: float
    softcap: float | None
    sinks: Tensor | None

    def found(self, max_block_elements: int = 2**24) -> ReplayMaxima:
        return chunk_maxima(self.rows, self.scaling, self.softcap, self.sinks, max_block_elements)

    def naive(self) -> NaiveReplay:
        rows = self.rows
        return NaiveReplay(
            rows.queries.flatten(0, 1).tolist(), rows.prompt_keys.tolist(), rows.keys.tolist(), rows.start, rows.stop,
            self.scaling, self.softcap, None if self.sinks is None else self.sinks.flatten().tolist(),
            rows.norms.tolist() if rows.norms is not None else [1.0] * rows.keys.shape[1],
        )  # fmt: skip

    def plain(self) -> Tensor:
        """PyTorch's own float32 softmax of all rows at once, `[H, G, rows, tokens of the chunk]`."""
        rows = self.rows
        first = rows.prompt_keys[:, : min(4, rows.start)]
        before = first.shape[1] + rows.stop - rows.start
        keys = torch.cat([first, rows.prompt_keys[:, rows.start : rows.stop], rows.keys], dim=1)
        logits = torch.einsum("hgwd,hkd->hgwk", rows.queries, keys) * self.scaling
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        causal = torch.ones(rows.keys.shape[1], keys.shape[1], dtype=torch.bool).tril(before)
        logits = logits.masked_fill(~causal, -torch.inf)
        if self.sinks is not None:
            logits = torch.cat([logits, self.sinks[..., None, None].expand(*logits.shape[:3], 1)], dim=-1)
        return logits.softmax(-1)[..., first.shape[1] : before]


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    """Chunks at the start and later, of one token and more, single rows, rows without a stream, GQA, softcap, sinks."""
    heads, group, num_rows = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3])), draw(st.integers(1, 9))
    tokens, head_dim = draw(st.integers(1, 12)), draw(st.sampled_from([1, 4]))
    start = draw(st.integers(0, tokens - 1))
    stop = draw(st.integers(start + 1, tokens))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    queries = torch.randn(heads, group, head_dim, num_rows, generator=generator).transpose(2, 3)
    prompt_keys = 2 * torch.randn(tokens, heads, head_dim, generator=generator).transpose(0, 1)
    norms = 10 ** (4 * torch.rand(num_rows, generator=generator) - 1)
    norms[torch.rand(num_rows, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = 0.0
    keys = 2 * torch.randn(heads, num_rows, head_dim, generator=generator)
    sinks = torch.randn(heads, group, generator=generator) if draw(st.booleans()) else None
    rows = ReplayRows(queries, prompt_keys, keys, start, stop, draw(st.sampled_from([norms, norms, None])))
    return Chunk(rows, head_dim**-0.5, draw(st.sampled_from([None, 1.5])), sinks)


@given(chunks(), st.sampled_from([1, 40, 200, 2**24]))
def test_maxima_equal_the_loops(chunk: Chunk, block: int) -> None:
    """Error: twice what PyTorch's own softmax of all rows shows, 8 ulp, and a rounding for the division by a norm."""
    heads, group = chunk.rows.queries.shape[:2]
    naive, found = chunk.naive(), chunk.found(block)
    shape = (heads, group, chunk.rows.stop - chunk.rows.start)
    shares = [[naive.attention(head, row) for row in range(len(naive.norms))] for head in range(heads * group)]
    exact = torch.tensor(shares, dtype=torch.float64).view(heads, group, len(naive.norms), -1)
    error = 2 * largest_difference(chunk.plain(), exact) + 8 * EPSILON
    assert error < 1e-4, "the evidence itself is wrong"
    assert largest_difference(found.attention, torch.tensor(naive.maxima(False)).view(shape)) <= error
    if chunk.rows.norms is None:
        assert found.per_norm is None
        return
    assert found.per_norm is not None
    relative, there = torch.tensor(naive.maxima(True), dtype=torch.float64).view(shape), chunk.rows.norms > 0
    if not bool(there.any()):
        assert bool((found.per_norm == 0).all())
        return
    smallest = float(chunk.rows.norms[there].min())
    assert largest_difference(found.per_norm, relative) <= (error + 3 * EPSILON) / smallest


def test_one_chunk_from_the_start_is_the_whole_softmax() -> None:
    """The first four positions do not come twice."""
    generator = torch.Generator().manual_seed(0)
    queries, prompt, keys = (torch.randn(shape, generator=generator) for shape in ((2, 2, 5, 8), (2, 9, 8), (2, 5, 8)))
    logits = torch.einsum("hgwd,hkd->hgwk", queries, torch.cat([prompt, keys], dim=1)) * 0.3
    whole = logits.masked_fill(~torch.ones(5, 14, dtype=torch.bool).tril(9), -torch.inf).softmax(-1)
    found = chunk_maxima(ReplayRows(queries, prompt, keys, 0, 9), 0.3)
    torch.testing.assert_close(found.attention, whole[..., :9].amax(dim=2))


@given(full_windows())
def test_scores_equal_the_loops(window: ScoringWindow) -> None:
    assert window.replay is not None
    assert window.replay.per_norm is not None
    assert window.output_weight is not None
    n = window.num_evictable
    plain, relative = (part[..., :n].double() for part in (window.replay.attention, window.replay.per_norm))
    assert kvzip_score(window).tolist() == kvzip_naive(plain.tolist())
    projected = torch.einsum("hnd,hgdo->hgno", window.values[0].double(), window.output_weight.double())
    lengths = projected.norm(dim=-1)[..., :n]
    exact = torch.tensor(kvzip_plus_naive(relative.tolist(), lengths.tolist()), dtype=torch.float64).view(
        len(lengths), n
    )
    size, sizes = window.values[0].shape[-1], window.output_weight.abs().double().sum(dim=(2, 3)).amax()
    roundings = 4 * (size + 2) * EPSILON * float(sizes) ** 2 * size * float(window.values[0].abs().max()) ** 2
    error = roundings**0.5 + 4 * EPSILON * float(exact[:, 4:].max() if n > 4 else 0.0)  # |a - b| <= sqrt(|a^2 - b^2|)
    score = kvzip_plus_score(window)
    assert score[:, :4].tolist() == exact[:, :4].tolist()
    assert n <= 4 or largest_difference(score[:, 4:], exact[:, 4:]) <= error


def test_the_first_four_positions_come_first_in_all_layers() -> None:
    replay = ReplayMaxima(torch.rand(2, 2, 30), 100 * torch.rand(2, 2, 30))
    for name in ("kvzip", "kvzip+"):
        layers = [
            lavakv.scores(name, torch.randn(4, 2, 8), torch.randn(2, 30, 8), torch.randn(2, 30, 8), replay=replay,
                          output_weight=torch.randn(4, 8, 6), residual_norms=torch.ones(2), layer=layer)
            for layer in range(3)
        ]  # fmt: skip
        kept = lavakv.select(name, layers, budget=6, window=2)
        assert kept.counts.tolist() == [[6, 6]] * 3
        assert all(rows.tolist() == [0, 1, 2, 3, 28, 29] for layer in kept.positions for rows in layer)
        few = lavakv.select(name, layers, budget=4, window=2)
        assert all(rows[:4].tolist() == [0, 1, 28, 29] for layer in few.positions for rows in layer)


@pytest.mark.parametrize("bad", [ReplayMaxima(torch.rand(2, 2, 29)), ReplayMaxima(torch.rand(2, 2, 30), torch.rand(2)),
                                 torch.rand(2, 2, 30), ReplayMaxima(3)])  # fmt: skip
def test_maxima_of_another_shape_are_refused(bad: object) -> None:
    queries, keys = torch.randn(4, 2, 8), torch.randn(2, 30, 8)
    with pytest.raises(InputError, match=r"replay: expected ReplayMaxima of shape \(2, 2, 30\)") as caught:
        lavakv.scores("kvzip", queries, keys, keys, replay=bad)  # type: ignore[arg-type]
    assert_all_parts(caught.value)


def test_a_replay_without_norms_is_none_for_kvzip_plus() -> None:
    queries, keys = torch.randn(4, 2, 8), torch.randn(2, 30, 8)
    more = {"output_weight": torch.randn(4, 8, 6), "residual_norms": torch.ones(2)}
    with pytest.raises(InputError, match="replay: expected maxima relative to the norms") as caught:
        lavakv.scores("kvzip+", queries, keys, keys, replay=ReplayMaxima(torch.rand(2, 2, 30)), **more)
    assert_all_parts(caught.value, got="none")
    with pytest.raises(PolicyError, match="a replay of the prompt, got none"):
        lavakv.scores("kvzip", queries, keys, keys)


def test_the_window_keeps_its_own_replay() -> None:
    keys = torch.randn(1, 9, 4)
    window = ScoringWindow(torch.randn(1, 1, 2, 4), [keys], [keys], 0.5)
    one, other = ReplayMaxima(torch.rand(1, 1, 9)), ReplayMaxima(torch.rand(1, 1, 9))
    twin = window.with_replay(one)
    assert window.replay is None
    assert twin.with_replay(other).replay is other
    assert twin.replay is one
    assert replace(twin, layer=3).replay is one
