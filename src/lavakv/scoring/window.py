"""The scoring window: the last queries of one prompt in one layer, and the attention they pay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


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
    """

    queries: Tensor
    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    scaling: float
    softcap: float | None = None
    sinks: Tensor | None = None
    visible: Tensor | None = None
    layer: int = 0

    @property
    def num_tokens(self) -> int:
        """Prompt tokens `N`."""
        return sum(chunk.shape[1] for chunk in self.keys)

    @property
    def num_evictable(self) -> int:
        """Positions before the window, `n = N - w`."""
        return self.num_tokens - self.queries.shape[2]

    @cached_property
    def mean_attention(self) -> Tensor:
        """`a_q[i]`: the window's mean attention to each evictable position, float32 `[H, G, n]` (method, step 1)."""
        if len(self.keys) == 1:
            probabilities = torch.softmax(self._logits(self.keys[0], 0), dim=-1)
            return probabilities[..., : self.num_evictable].mean(dim=2)
        normalizer = self._normalizer()
        means, start = [], 0
        for chunk in self.keys:
            logits = self._logits(chunk, start, with_sinks=False)
            means.append(torch.exp(logits - normalizer).mean(dim=2))
            start += chunk.shape[1]
        return torch.cat(means, dim=-1)[..., : self.num_evictable]

    @cached_property
    def value_norms(self) -> Tensor:
        """`||V_h[i]||_1` of every position, float32 `[H, N]`."""
        return torch.cat([torch.linalg.vector_norm(chunk.float(), ord=1, dim=-1) for chunk in self.values], dim=-1)

    def _logits(self, keys: Tensor, start: int, with_sinks: bool = True) -> Tensor:
        """Masked attention logits of the window to one chunk, float32 `[H, G, w, tokens]`, sinks as a last column."""
        heads, group, window, _ = self.queries.shape
        packed = self.queries.float().reshape(heads, group * window, -1) * self.scaling
        logits = torch.bmm(packed, keys.float().transpose(1, 2)).view(heads, group, window, -1)
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        if self.visible is not None:
            logits.masked_fill_(~self.visible[:, start : start + keys.shape[1]], float("-inf"))
        else:
            # Every window query sees all that came before the window.
            first_masked = min(max(self.num_evictable - start, 0), keys.shape[1])
            logits[..., first_masked:].masked_fill_(
                ~self._causal(start + first_masked, start + keys.shape[1]), -torch.inf
            )
        if self.sinks is not None and with_sinks:
            sinks = self.sinks.float()[:, :, None, None].expand(heads, group, window, 1)
            logits = torch.cat([logits, sinks], dim=-1)
        return logits

    def _causal(self, start: int, stop: int) -> Tensor:
        """Bool `[w, stop - start]`: may window query `j` see positions `start` to `stop`?"""
        device = self.queries.device
        query_positions = torch.arange(self.num_evictable, self.num_tokens, device=device)
        return torch.arange(start, stop, device=device) <= query_positions[:, None]

    def _normalizer(self) -> Tensor:
        """Log of the softmax denominator of each window row over all chunks, float32 `[H, G, w, 1]`."""
        parts, start = [], 0
        for chunk in self.keys:
            parts.append(torch.logsumexp(self._logits(chunk, start, with_sinks=False), dim=-1))
            start += chunk.shape[1]
        if self.sinks is not None:
            parts.append(self.sinks.float()[:, :, None].expand(parts[0].shape))
        return torch.logsumexp(torch.stack(parts), dim=0).unsqueeze(-1)
