"""The scoring window: the last queries of one prompt in one layer, and the attention they pay."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lavakv.scoring.logits import QueryRows, masked_logits
from lavakv.scoring.prompt import PromptRows

_CACHED_TOKENS = 256  # projected values of so many tokens stay in a core's cache


@dataclass(frozen=True)
class ScoringWindow:
    """What a score may look at: one sequence in one layer, padding already cut away.

    Shapes: `H` KV heads, `G` query heads a KV head, `w` window queries, `N` prompt tokens, `n = N - w` evictable.

    Attributes:
        queries: `[H, G, w, head_dim]`, the last `w` queries, RoPE applied, any float dtype.
        keys: chunks of `[H, tokens, head_dim]` that join to `[H, N, head_dim]`.
        values: chunks of `[H, tokens, value_dim]`, cut like `keys`.
        scaling: factor on query-key products (the model's own, not always `head_dim**-0.5`).
        softcap: `c` in `c * tanh(x / c)`, or None.
        sinks: `[H, G]` attention-sink logits that join the softmax denominator, or None.
        visible: bool `[w, N]`, what each window query sees; None means causal.
        layer: index of the layer in the model.
        tokens_per_head: the budget `b`, for scores that depend on it, or None.
        output_weight: `[H, G, value_dim, hidden]`, what the output projection does to each query head's values, or
            None where it is not known.
        prompt: all rows of the prompt, for scores that look beyond the window, or None.
        residual_norms: float32 `[w]`, L2 norm of the residual stream that each window query was made from (0 for a
            stream of zeros), or None where it is not known.
    """

    queries: Tensor
    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    scaling: float
    softcap: float | None = None
    sinks: Tensor | None = None
    visible: Tensor | None = None
    layer: int = 0
    tokens_per_head: int | None = None
    output_weight: Tensor | None = None
    prompt: PromptRows | None = None
    residual_norms: Tensor | None = None
    _computed: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def with_budget(self, tokens_per_head: int) -> ScoringWindow:
        """The same window for another budget; what was computed on this one is shared."""
        twin = copy.copy(self)
        object.__setattr__(twin, "tokens_per_head", tokens_per_head)
        return twin

    @property
    def num_tokens(self) -> int:
        """Prompt tokens `N`."""
        return sum(chunk.shape[1] for chunk in self.keys)

    @property
    def num_evictable(self) -> int:
        """Positions before the window, `n = N - w`."""
        return self.num_tokens - self.queries.shape[2]

    @property
    def attention(self) -> Tensor:
        """`A`: what each window query pays to each position, window included, float32 `[H, G, w, N]`."""
        return self.remember("attention", self._attention)

    @property
    def mean_attention(self) -> Tensor:
        """`a_q[i]`: the window's mean attention to each evictable position, float32 `[H, G, n]` (method, step 1)."""
        return self.remember("mean_attention", self._mean_attention)

    @property
    def value_norms(self) -> Tensor:
        """`||V_h[i]||_1` of every position, float32 `[H, N]`."""
        return self.remember("value_norms", self._value_norms)

    @property
    def projected_norms(self) -> Tensor:
        """`||V_h[i] W_O,q||_1` of every evictable position, float32 `[H, G, n]`."""
        return self.remember("projected_norms", self._projected_norms)

    def remember(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Compute something once for this window and all its twins of other budgets."""
        if name not in self._computed:
            self._computed[name] = compute()
        return self._computed[name]

    def _attention(self) -> Tensor:
        if len(self.keys) == 1:
            return torch.softmax(self._logits(self.keys[0], 0, self.sinks), dim=-1)[..., : self.num_tokens]
        return torch.cat(list(self._attention_chunks()), dim=-1)

    def _mean_attention(self) -> Tensor:
        if len(self.keys) == 1:
            return self.attention[..., : self.num_evictable].mean(dim=2)
        return torch.cat([chunk.mean(dim=2) for chunk in self._attention_chunks()], dim=-1)[..., : self.num_evictable]

    def _value_norms(self) -> Tensor:
        return torch.cat([chunk.float().abs().sum(dim=-1) for chunk in self.values], dim=-1)

    def _projected_norms(self) -> Tensor:
        assert self.output_weight is not None
        norms = torch.cat([_projected(chunk, self.output_weight) for chunk in self.values], dim=-1)
        return norms[..., : self.num_evictable]

    def _attention_chunks(self) -> Iterator[Tensor]:
        """Attention to one chunk of keys after the other, `[H, G, w, tokens]`; two passes, nothing held."""
        normalizer, start = self._normalizer(), 0
        for chunk in self.keys:
            yield torch.exp(self._logits(chunk, start) - normalizer)
            start += chunk.shape[1]

    def _logits(self, keys: Tensor, start: int, sinks: Tensor | None = None) -> Tensor:
        first = self.num_evictable
        visible = None if self.visible is None else self.visible[:, start : start + keys.shape[1]]
        rows = QueryRows(self.queries, first - start, visible)
        return masked_logits(rows, keys, self.scaling, self.softcap, sinks)

    def _normalizer(self) -> Tensor:
        """Log of the softmax denominator of each window row over all chunks, float32 `[H, G, w, 1]`."""
        parts, start = [], 0
        for chunk in self.keys:
            parts.append(torch.logsumexp(self._logits(chunk, start), dim=-1))
            start += chunk.shape[1]
        if self.sinks is not None:
            parts.append(self.sinks.float()[:, :, None].expand(parts[0].shape))
        return torch.logsumexp(torch.stack(parts), dim=0).unsqueeze(-1)


def _projected(values: Tensor, weight: Tensor) -> Tensor:
    """L1 norms of one chunk's projected values, `[H, G, tokens]`; a query head at a time, never all at once."""
    heads, group = weight.shape[:2]
    pairs = [(values[head].float(), weight[head, query].float()) for head in range(heads) for query in range(group)]
    norms = [
        torch.cat([torch.matmul(part, projection).abs().sum(-1) for part in torch.split(tokens, _CACHED_TOKENS)])
        for tokens, projection in pairs
    ]
    return torch.stack(norms).view(heads, group, -1)
