"""Random scoring windows, with a naive twin each."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from lavakv.scoring.blocks import MAX_BLOCK_ELEMENTS
from lavakv.scoring.naive.window import NaiveWindow
from lavakv.scoring.prompt import PromptRows, ReplayMaxima
from lavakv.scoring.rotation import Rotation
from lavakv.scoring.window import ScoringWindow


@st.composite
def windows(draw: st.DrawFn, min_evictable: int = 0) -> ScoringWindow:
    """One token, fewer tokens than the pooling kernel, GQA, softcap, sinks, masks, odd sizes, odd strides."""
    heads, group = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 7]))
    window, evictable = draw(st.integers(1, 5)), draw(st.integers(min_evictable, 17))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    head_dim, num_tokens = draw(st.sampled_from([1, 4, 5])), window + evictable
    queries = torch.randn(heads, group, head_dim, window, generator=generator).transpose(2, 3)
    keys = 2 * torch.randn(num_tokens, heads, head_dim, generator=generator).transpose(0, 1)
    values = torch.randn(heads, num_tokens, 2 * draw(st.integers(1, 3)), generator=generator)[..., ::2]
    sinks = torch.randn(heads, group, generator=generator) if draw(st.booleans()) else None
    visible = None
    if draw(st.booleans()):
        visible = torch.rand(window, num_tokens, generator=generator) < 0.6
        visible[torch.arange(window), evictable + torch.arange(window)] = True  # every query sees itself
    softcap = draw(st.sampled_from([None, 1.5, 50.0]))
    scaling = draw(st.sampled_from([head_dim**-0.5, 0.3]))
    return ScoringWindow(queries, [keys], [values], scaling, softcap, sinks, visible)


@st.composite
def chunked(draw: st.DrawFn) -> tuple[ScoringWindow, ScoringWindow]:
    """A window and the same one with keys and values in chunks, empty ones included."""
    return draw(pairs(windows()))


@st.composite
def pairs(draw: st.DrawFn, wholes: st.SearchStrategy[ScoringWindow]) -> tuple[ScoringWindow, ScoringWindow]:
    """Any window and the same one cut into chunks, into blocks, or both: of one, two or three tokens, or large."""
    whole = draw(wholes)
    cuts = sorted(draw(st.lists(st.integers(0, whole.num_tokens), max_size=3)))
    heads, group, rows, head_dim = whole.queries.shape
    per_token = heads * max(group * rows, head_dim, whole.values[0].shape[2])
    block = draw(st.sampled_from([MAX_BLOCK_ELEMENTS, 1, per_token, 2 * per_token, 3 * per_token]))
    return whole, replace(
        whole, keys=_cut(whole.keys[0], cuts), values=_cut(whole.values[0], cuts), max_block_elements=block
    )


@st.composite
def full_windows(draw: st.DrawFn, min_evictable: int = 0) -> ScoringWindow:
    """Windows that hold all that the family reads; flat attention, values of zero and budgets beyond the prompt too."""
    window = draw(windows(min_evictable))
    heads, group, rows, head_dim = window.queries.shape
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    before = torch.randn(heads, group, window.num_evictable, head_dim, generator=generator)
    causal = torch.ones(window.num_tokens, window.num_tokens, dtype=torch.bool).tril()
    visible = causal | (torch.rand(causal.shape, generator=generator) < 0.3)  # no triangle
    weight = torch.randn(heads, group, window.values[0].shape[-1], draw(st.sampled_from([1, 3])), generator=generator)
    zeros = draw(st.sampled_from(["none", "none", "keys", "values"]))
    return replace(
        window,
        keys=[window.keys[0] * (zeros != "keys")],
        values=[window.values[0] * (zeros != "values")],
        tokens_per_head=draw(st.integers(rows + 1, window.num_tokens + 3)),
        output_weight=weight,
        prompt=PromptRows(
            torch.cat([before, window.queries], dim=2),
            (lambda start, stop: visible[start:stop]) if draw(st.booleans()) else None,
        ),
        residual_norms=10 ** (4 * torch.rand(rows, generator=generator) - 1),
        rotation=None if head_dim % 2 else made_up_rotation(window.num_tokens, head_dim, generator),
        replay=ReplayMaxima(*torch.rand(2, heads, group, window.num_tokens, generator=generator)),
    )


def made_up_rotation(num_tokens: int, head_dim: int, generator: torch.Generator) -> Rotation:
    """Any frequencies, from any position on, with a factor as YaRN has it."""
    frequencies = torch.rand(head_dim // 2, generator=generator) * 2
    first, factor = torch.randint(50, (1,), generator=generator), 0.5 + torch.rand(1, generator=generator)
    angles = (first + torch.arange(num_tokens))[:, None] * torch.cat([frequencies, frequencies])
    return Rotation(factor * angles.cos(), factor * angles.sin(), frequencies)


@st.composite
def ragged_windows(draw: st.DrawFn) -> ScoringWindow:
    """Heads with unequally many candidates, none and all included, of any positions; anything in empty places."""
    window = draw(full_windows())
    heads, _, rows, _ = window.queries.shape
    count, generator = window.num_evictable, torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    caps = torch.tensor(draw(st.lists(st.integers(0, count), min_size=heads, max_size=heads)))
    positions = torch.rand(heads, 2 * count + 1, generator=generator).argsort(dim=1)[:, :count].sort(dim=1).values
    visible = window.visible
    if visible is not None and draw(st.booleans()):
        visible = torch.rand(heads, 1, rows, window.num_tokens, generator=generator) < 0.6
        visible[..., torch.arange(rows), count + torch.arange(rows)] = True
    settings = {
        "caps": caps,
        "positions": draw(st.sampled_from([None, positions])),
        "prompt": None,
        "rotation": None,
        "replay": None,
        "layer": 3,
    }
    return with_garbage(replace(window, visible=visible, **settings), draw(st.sampled_from([0.0, 1.0, 1e30, 3e38])))


def with_garbage(window: ScoringWindow, size: float) -> ScoringWindow:
    """The same with numbers of this size in the empty places."""
    empty = (torch.arange(window.num_evictable) >= window.caps[:, None])[..., None]
    positions, filled = window.positions, []
    for tensor in (window.keys[0], window.values[0]):
        garbage = size * torch.where(torch.arange(tensor.shape[2]) % 2 == 0, 1.0, -1.0)
        before = torch.where(empty, garbage, tensor[:, : window.num_evictable])
        filled.append(torch.cat([before, tensor[:, window.num_evictable :]], dim=1))
    if positions is not None:
        positions = torch.where(empty[..., 0], int(min(size, 2**62)), positions)
    return replace(window, keys=[filled[0]], values=[filled[1]], positions=positions)


def entries(window: ScoringWindow, head: int) -> Tensor:
    """Places of a head that hold something, the window's included."""
    count = window.num_evictable
    cap = count if window.caps is None else int(window.caps[head])
    return torch.cat([torch.arange(cap), torch.arange(count, window.num_tokens)])


def alone(window: ScoringWindow, head: int) -> ScoringWindow:
    """One head without its empty places, as if there were no other."""
    held, one = entries(window, head), slice(head, head + 1)
    visible = window.visible
    if visible is not None:
        visible = (visible if visible.ndim == 2 else visible[head, 0])[:, held]
    cut = {
        "keys": [torch.cat(list(window.keys), dim=1)[one, held]],
        "values": [torch.cat(list(window.values), dim=1)[one, held]],
        "sinks": None if window.sinks is None else window.sinks[one],
        "output_weight": None if window.output_weight is None else window.output_weight[one],
        "rotation": None,
        "positions": None if window.positions is None else window.positions[one, held[: -window.queries.shape[2]]],
    }
    return replace(window, queries=window.queries[one], visible=visible, caps=None, prompt=None, **cut)


def naive(window: ScoringWindow) -> NaiveWindow:
    """The twin in nested lists."""
    prompt = window.prompt
    return NaiveWindow(
        window.queries.flatten(0, 1).tolist(),
        torch.cat(list(window.keys), dim=1).tolist(),
        torch.cat(list(window.values), dim=1).tolist(),
        window.scaling,
        window.softcap,
        None if window.sinks is None else window.sinks.flatten().tolist(),
        None if window.visible is None else window.visible.tolist(),
        window.layer,
        window.tokens_per_head,
        None if window.output_weight is None else window.output_weight.flatten(0, 1).tolist(),
        None if prompt is None else prompt.queries.flatten(0, 1).tolist(),
        None if prompt is None or prompt.visible is None else prompt.visible(0, window.num_tokens).tolist(),
        None if window.residual_norms is None else window.residual_norms.tolist(),
        None if window.rotation is None else tuple(part.tolist() for part in window.rotation),
    )


def whole_prompt(window: ScoringWindow) -> ScoringWindow:
    """The prompt's rows as a window, of which nothing is evictable."""
    assert window.prompt is not None
    visible = None if window.prompt.visible is None else window.prompt.visible(0, window.num_tokens)
    return replace(window, queries=window.prompt.queries, visible=visible)


def plain_attention(window: ScoringWindow) -> list[Tensor]:
    """PyTorch's own float32 softmax and log-softmax, written out anew, `[H, G, w, N]` each."""
    logits, tokens = plain_logits(window), window.num_tokens
    if window.sinks is not None:
        logits = torch.cat([logits, window.sinks[..., None, None].expand(*logits.shape[:3], 1)], dim=-1)
    return [shares[..., :tokens] for shares in (logits.softmax(-1), logits.log_softmax(-1).exp())]


def plain_logits(window: ScoringWindow) -> Tensor:
    """Float32 logits, -inf where nothing is seen, `[H, G, w, N]`."""
    keys = torch.cat(list(window.keys), dim=1)
    logits = torch.einsum("hgwd,hkd->hgwk", window.queries, keys) * window.scaling
    if window.softcap is not None:
        logits = torch.tanh(logits / window.softcap) * window.softcap
    causal = torch.ones(logits.shape[2:], dtype=torch.bool).tril(window.num_evictable)
    logits = logits.masked_fill(~(causal if window.visible is None else window.visible), -torch.inf)
    if window.caps is not None:
        empty = torch.arange(window.num_evictable) >= window.caps[:, None]
        logits[..., : window.num_evictable].masked_fill_(empty[:, None, None], -torch.inf)
    return logits


def candidate_logits(window: ScoringWindow) -> Tensor:
    """Those of the candidates, `[H, G, w, n]`."""
    return plain_logits(window)[..., : window.num_evictable]


def plain_attention_error(window: ScoringWindow, exact: Tensor) -> float:
    """How far PyTorch's own attention is from the exact mean attention."""
    means = [shares[..., : window.num_evictable].mean(dim=2) for shares in plain_attention(window)]
    error = max(largest_difference(mean, exact) for mean in means)
    assert error < 1e-4, "the evidence itself is wrong"
    return error


def largest_difference(one: Tensor, other: Tensor) -> float:
    """Largest absolute difference, 0 where there is nothing to compare; both must be finite."""
    difference = (one.double() - other.double()).abs()
    assert bool(difference.isfinite().all())
    return float(difference.max()) if difference.numel() else 0.0


def _cut(tensor: Tensor, cuts: list[int]) -> list[Tensor]:
    return list(tensor.tensor_split(cuts, dim=1))
