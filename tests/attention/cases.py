"""Random questions to a layer's store, with the exact answer and the error PyTorch's own attention makes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from lavakv.attention import AttentionRequest, AttentionSettings
from lavakv.attention.dense import attend_dense
from lavakv.store.base import LayerStore

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@dataclass
class Case:
    """A store's life in short, and a request to it.

    Attributes:
        keys: `[B, H, columns, head_dim]`: prompt, then new tokens.
        values: `[B, H, columns, value_dim]`.
        ranked: `[B]` of `[H, n]`, evictable columns by rank.
        counts: `[B][H]`, how many of them are held.
        window: columns of the window.
        request: queries of the last columns.
    """

    keys: Tensor
    values: Tensor
    ranked: list[Tensor]
    counts: list[list[int]]
    window: int
    request: AttentionRequest

    def to(self, device: str) -> Case:
        """The same numbers on another device."""
        queries, (scaling, softcap, sinks), *masks = self.request
        settings = AttentionSettings(scaling, softcap, None if sinks is None else sinks.to(device))
        request = AttentionRequest(queries.to(device), settings, *(m if m is None else m.to(device) for m in masks))
        keys, values = self.keys.to(device), self.values.to(device)
        return Case(keys, values, self.ranked, self.counts, self.window, request)

    def fill(self, store: LayerStore) -> LayerStore:
        """Hold, evict, and append the new tokens: one alone first, so that there is spare room behind the rest."""
        prompt = self.ranked[0].shape[1] + self.window
        store.hold(self.keys[:, :, :prompt], self.values[:, :, :prompt])
        store.keep(self.ranked, self.counts, self.window)
        for start, stop in ((prompt, prompt + 1), (prompt + 1, self.keys.shape[2])):
            store.append(self.keys[:, :, start:stop], self.values[:, :, start:stop])
        return store

    def visible(self) -> Tensor:
        """What each query may see, bool `[B, H, q, columns]`, entry by entry."""
        batch, heads, columns, _ = self.keys.shape
        evictable, num_queries = self.ranked[0].shape[1], self.request.queries.shape[2]
        seen = torch.zeros(batch, heads, num_queries, columns, dtype=torch.bool)  # filled on the CPU, one by one
        for row in range(batch):
            for head, count in enumerate(self.counts[row]):
                for column in self.ranked[row][head, :count].tolist():
                    seen[row, head, :, column] = True
        mask, past_mask = self.request.tail_mask, self.request.past_mask
        seen[..., evictable:] = True if mask is None else mask.cpu()
        if past_mask is not None:
            seen[..., :evictable] &= past_mask.cpu()
        return seen.to(self.keys.device)

    def exact(self) -> Tensor:
        """The answer in float64."""
        queries, (scaling, softcap, sinks), *_ = self.request
        settings = AttentionSettings(scaling, softcap, None if sinks is None else sinks.double())
        request = AttentionRequest(queries.double(), settings)
        return attend_dense(request, self.keys.double(), self.values.double(), self.visible())

    def bound(self) -> float:
        """Twice the worse of PyTorch's own errors, and a few roundings that it does not make.

        Those are of the output: one a part (past and tail), one for their sum, one for the last cast; and of the
        log-sum-exp: a number as large as the largest logit is rounded in each part and in their merger.
        """
        exact, queries = self.exact(), self.request.queries
        errors = [float((answer.double() - exact).abs().max()) for answer in self.pytorch()]
        scale = float(self.values.double().abs().max())
        assert max(errors) < 16 * torch.finfo(queries.dtype).eps * scale, "the evidence itself is wrong"
        wide = torch.promote_types(queries.dtype, torch.float32)
        logit = float(queries.double().norm(dim=-1).max() * self.keys.double().norm(dim=-1).max())
        size = abs(self.request.settings.scaling) * logit + self.keys.shape[2]
        roundings = 4 * torch.finfo(queries.dtype).eps + 3 * size * torch.finfo(wide).eps
        return 2 * max(errors) + roundings * scale

    def pytorch(self) -> list[Tensor]:
        """PyTorch's attention in the queries' dtype and device: written out in two ways as models do, and fused.

        With the keys of a group repeated, and with a group's queries as rows of one product; these sum differently.
        """
        queries, (scaling, _, sinks), *_ = self.request
        heads, group = self.keys.shape[1], queries.shape[1] // self.keys.shape[1]
        keys, values, seen = (t.repeat_interleave(group, dim=1) for t in (self.keys, self.values, self.visible()))
        answers = [self._weights(queries @ keys.transpose(2, 3), seen) @ values]
        rows = queries.reshape(queries.shape[0], heads, -1, queries.shape[3])
        products = (rows @ self.keys.transpose(2, 3)).view(*queries.shape[:3], -1)
        weights = self._weights(products, seen).reshape(*rows.shape[:3], -1)
        answers.append((weights @ self.values).view(answers[0].shape))
        if self.request.settings.softcap is None and sinks is None:
            answers.append(functional.scaled_dot_product_attention(queries, keys, values, seen, scale=scaling))
        return answers

    def _weights(self, products: Tensor, seen: Tensor) -> Tensor:
        """Softmax of products `[B, query_heads, q, columns]`, in their dtype."""
        scaling, softcap, sinks = self.request.settings
        logits = products * scaling
        logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
        logits = logits.masked_fill(~seen, float("-inf"))
        if sinks is not None:
            column = sinks.to(logits.dtype).view(1, -1, 1, 1).expand(*logits.shape[:3], 1)
            logits = torch.cat([logits, column], dim=-1)
        wide = torch.promote_types(products.dtype, torch.float32)
        return torch.softmax(logits, dim=-1, dtype=wide).to(products.dtype)[..., : products.shape[3]]


@st.composite
def cases(draw: st.DrawFn, dtype: torch.dtype, head_dims: tuple[int, ...] = (80, 5, 8), value_dim: int = 3) -> Case:
    """Empty heads, all heads empty, odd head sizes, groups of one to seven, one query and many under masks."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    batch, heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 7]))
    head_dim, window, evictable = draw(st.sampled_from(head_dims)), draw(st.integers(1, 4)), draw(st.integers(0, 12))
    value_dim = draw(st.sampled_from([head_dim, head_dim, value_dim]))
    num_queries = draw(st.sampled_from([1, 1, 2, 5]))
    columns = evictable + window + 1 + num_queries
    most = draw(st.sampled_from([0, evictable, evictable]))
    counts = [[draw(st.integers(0, most)) for _ in range(heads)] for _ in range(batch)]
    ranked = [torch.stack([torch.randperm(evictable, generator=generator) for _ in range(heads)]) for _ in range(batch)]

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).transpose(1, 2)

    settings = AttentionSettings(
        draw(st.sampled_from([head_dim**-0.5, 0.3])),
        draw(st.sampled_from([None, None, 2.0])),
        torch.randn(heads * group, generator=generator).to(dtype) if draw(st.booleans()) else None,
    )
    mask = None
    if num_queries > 1 or draw(st.booleans()):
        mask = tail_mask(generator, batch, num_queries, window + 1 + num_queries)
    queries = noise(batch, num_queries, heads * group, head_dim)
    past_mask = None
    if draw(st.booleans()):
        past_mask = hidden_past(generator, batch, draw(st.sampled_from([1, num_queries])), evictable)
    request = AttentionRequest(queries, settings, mask, past_mask)
    keys, values = noise(batch, columns, heads, head_dim), noise(batch, columns, heads, value_dim)
    return Case(keys, values, ranked, counts, window, request)


def hidden_past(generator: torch.Generator, batch: int, num_rows: int, num_columns: int) -> Tensor:
    """A mask that hides columns before the tail, of some sequences all; bool `[B, 1, rows, columns]`."""
    mask = torch.rand(batch, 1, num_rows, num_columns, generator=generator) < 0.6
    return mask & (torch.rand(batch, 1, 1, 1, generator=generator) < 0.8)


def tail_mask(generator: torch.Generator, batch: int, num_queries: int, tail: int) -> Tensor:
    """Causal among the new tokens, some of the columns before them hidden; every query sees itself."""
    mask = torch.rand(batch, 1, 1, tail, generator=generator) < 0.7
    causal = torch.ones(num_queries, tail, dtype=torch.bool).tril(tail - num_queries)
    itself = torch.zeros_like(causal)
    itself[torch.arange(num_queries), tail - num_queries + torch.arange(num_queries)] = True
    return (mask & causal) | itself
