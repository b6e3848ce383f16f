"""The scoring window: the last queries of one sequence in one layer, and the attention they pay."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lavakv.scoring import pooling
from lavakv.scoring.blocks import MAX_BLOCK_ELEMENTS, WindowRows, empty_places, first_tokens, joined, token_blocks
from lavakv.scoring.fused import fused_mean_attention
from lavakv.scoring.output_scale import OutputScale
from lavakv.scoring.pooling import Places, over_places
from lavakv.scoring.projected import projected_norms
from lavakv.scoring.prompt import PromptRows, ReplayMaxima
from lavakv.scoring.rotation import Rotation


@dataclass(frozen=True)
class ScoringWindow:
    """Input of a score: one sequence in one layer, without padding.

    Shapes: `H` KV heads, `G` query heads a KV head, `w` window queries, `N` places, `n = N - w` of them for candidates.
    In a prompt every place holds the token of that number. In a later round heads hold unequally many candidates:
    `caps` says how many, and the places after them are empty. Attention to an empty place is zero and so are all norms
    there, whatever finite numbers its key and value hold; scores leave any finite number there.

    Attributes:
        queries: `[H, G, w, head_dim]`, the last `w` queries, RoPE applied, any float dtype.
        keys: chunks of `[H, tokens, head_dim]` that join to `[H, N, head_dim]`.
        values: chunks of `[H, tokens, value_dim]`, cut like `keys`.
        scaling: factor on query-key products (the model's own, not always `head_dim**-0.5`).
        softcap: `c` in `c * tanh(x / c)`, or None.
        sinks: `[H, G]` attention-sink logits that join the softmax denominator, or None.
        visible: bool `[w, N]`, or `[H, 1, w, N]` where heads differ, what each window query sees; None means causal.
        layer: index of the layer in the model.
        tokens_per_head: the budget `b`, for scores that depend on it, or None.
        output_weight: `[H, G, value_dim, hidden]`, what the output projection does to each query head's values, or
            None where it is not known.
        prompt: all rows of the prompt, for scores that look beyond the window, or None. Only where no place is empty.
        residual_norms: float32 `[w]`, L2 norm of the residual stream that each window query was made from (0 for a
            stream of zeros), or None where it is not known.
        output_scale: what a norm between the output projection and the residual stream does, or None where the output
            joins the stream as it is.
        rotation: of all rows of the prompt, for scores of queries or keys before their rotation, or None. Only where no
            place is empty.
        max_block_elements: float32 elements of a block of attention, or of keys or values in float32, at most.
        caps: int64 `[H]` on the queries' device: the first `caps[h]` of the `n` places before the window hold the
            candidates of head `h`, the others are empty. None means that all hold one.
        positions: int64 `[H, n]` on the queries' device, the original position of each candidate, ascending in each
            head; anything in empty places. None means `0` to `n - 1` in each head.
        replay: what rows that repeat the prompt looked at, or None. Only where no place is empty.
        hidden_states: `[N, hidden]`, what the layer's attention was given for each token, behind the norm ahead of it,
            or None where it is not known. Only where no place is empty.
        protected: original positions that every head keeps whatever the scores say, all of them candidates of every
            head; scores do not read it.
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
    max_block_elements: int = MAX_BLOCK_ELEMENTS
    caps: Tensor | None = None
    positions: Tensor | None = None
    rotation: Rotation | None = None
    output_scale: OutputScale | None = None
    replay: ReplayMaxima | None = None
    hidden_states: Tensor | None = None
    protected: range = range(0)
    _computed: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def with_needs(
        self,
        tokens_per_head: int | None,
        output_weight: Tensor | None,
        rotation: Rotation | None = None,
        protected: range = range(0),
        output_scale: OutputScale | None = None,
    ) -> ScoringWindow:
        """The same window for another budget and policy; what was computed on this one is shared.

        Args:
            tokens_per_head: the budget, or None where it is not known.
            output_weight: as in the attributes; the same for all policies that need it.
            rotation: likewise.
            protected: as in the attributes.
            output_scale: like `output_weight`.
        """
        window = copy.copy(self)
        object.__setattr__(window, "output_scale", output_scale)
        object.__setattr__(window, "protected", protected)
        object.__setattr__(window, "tokens_per_head", tokens_per_head)
        object.__setattr__(window, "output_weight", output_weight)
        object.__setattr__(window, "rotation", rotation)
        return window

    def with_hidden_states(self, hidden_states: Tensor | None) -> ScoringWindow:
        """The same window with what the layer's attention was given; what was computed on this one is shared."""
        window = copy.copy(self)
        object.__setattr__(window, "hidden_states", hidden_states)
        return window

    def with_replay(self, replay: ReplayMaxima) -> ScoringWindow:
        """The same window with what a replay gave; what was computed on this one is shared."""
        window = copy.copy(self)
        object.__setattr__(window, "replay", replay)
        return window

    @property
    def num_tokens(self) -> int:
        """Places `N`: for candidates, and the window's tokens."""
        return sum(chunk.shape[1] for chunk in self.keys)

    @property
    def num_evictable(self) -> int:
        """Places before the window, `n = N - w`."""
        return self.num_tokens - self.queries.shape[2]

    @property
    def empty(self) -> Tensor | None:
        """Places without a candidate, bool `[H, n]`, or None where every place holds one."""
        if self.caps is None:
            return None
        n, caps = self.num_evictable, self.caps
        return self.remember("empty", lambda: empty_places(caps, 0, n, n))

    @property
    def pinned(self) -> Tensor | None:
        """Places of the protected candidates, int64 `[H, p]`, or None if there are none; every head has them all."""
        if not self.protected:
            return None
        numbers = torch.arange(len(self.protected), device=self.queries.device)
        if self.positions is None:
            return (self.protected.start + numbers).expand(self.queries.shape[0], -1)
        held = self.candidate_positions
        if self.empty is not None:
            held = held.masked_fill(self.empty, torch.iinfo(held.dtype).max)
        before = (held < self.protected.start).sum(dim=1, keepdim=True)
        return before + numbers

    @property
    def places(self) -> Places | None:
        """The places as pooling takes them, or None where every place holds a candidate."""
        return None if self.empty is None else Places(self.empty, self.candidate_positions, pooling.BY_POSITION)

    @property
    def candidate_positions(self) -> Tensor:
        """Original position of each candidate, int64 `[H, n]`; anything in empty places."""
        if self.positions is not None:
            return self.positions
        return torch.arange(self.num_evictable, device=self.queries.device).expand(self.queries.shape[0], -1)

    def without_empty(self, numbers: Tensor, fill: float = 0.0) -> Tensor:
        """Numbers of each place `[H, ..., n]` with `fill` in the empty ones; the same tensor where none is empty."""
        if self.empty is None:
            return numbers
        return numbers.masked_fill(over_places(self.empty, numbers.ndim), fill)

    @property
    def block_tokens(self) -> int:
        """Tokens of a block whose attention, and keys and values in float32, stay within `max_block_elements`."""
        heads, group, rows, head_dim = self.queries.shape
        return max(self.max_block_elements // (heads * max(group * rows, head_dim, self.values[0].shape[2])), 1)

    @property
    def is_one_block(self) -> bool:
        """Whether the attention to all places is one block, which is computed once and kept."""
        return len(self.keys) == 1 and self.num_tokens <= self.block_tokens

    @property
    def attention(self) -> Tensor:
        """`A`: what each window query pays to each position, window included, float32 `[H, G, w, N]`.

        All of it at once: where it is more than a block, `reduce` and `blocks` need less memory.
        """
        return joined(self.blocks())

    @property
    def mean_attention(self) -> Tensor:
        """`a_q[i]`: the window's mean attention to each evictable position, float32 `[H, G, n]` (method, step 1)."""
        return self.remember("mean_attention", self._mean_attention)

    @property
    def value_norms(self) -> Tensor:
        """`||V_h[i]||_1` of every place, float32 `[H, N]`; 0 where it is empty."""
        return self.remember("value_norms", self._value_norms)

    @property
    def projected_norms(self) -> Tensor:
        """`||V_h[i] W_O,q||_1` of every place before the window, float32 `[H, G, n]`; 0 where it is empty."""
        return self.remember("projected_norms", self._projected_norms)

    def remember(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Compute a tensor once for this window and its copies for other budgets."""
        if name not in self._computed:
            self._computed[name] = compute()
        return self._computed[name]

    def blocks(self) -> Iterator[Tensor]:
        """`A` in blocks of consecutive positions, float32 `[H, G, w, tokens]`, `N` in all; read only.

        One block is computed once and kept, several are computed at each call.
        """
        rows = self._rows()
        if self.is_one_block:
            yield self.remember("attention", rows.whole)
        else:
            denominators = self.remember("denominators", lambda: rows.denominators(self.block_tokens))
            yield from rows.blocks(denominators, self.block_tokens)

    def evictable_blocks(self) -> Iterator[Tensor]:
        """`A` over the evictable positions only, at least one block, `n` positions in all."""
        left = self.num_evictable
        for block in self.blocks():
            part = block[..., :left]
            left -= part.shape[-1]
            yield part
            if not left:
                return

    def logit_blocks(self) -> Iterator[Tensor]:
        """Logits of the evictable positions in blocks, float32 `[H, G, w, tokens]`, -inf where a row does not see.

        Computed at each call; -inf in empty places.
        """
        rows, start = self._rows(), 0
        for keys in token_blocks(first_tokens(self.keys, self.num_evictable), self.block_tokens):
            yield rows.logits(keys, start)
            start += keys.shape[1]

    def reduce(self, over_rows: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a reduction over the window's rows to the attention of all evictable positions.

        Args:
            over_rows: from `[H, G, w, tokens]` to `[..., tokens]`, each position by itself.

        Returns:
            `[..., n]`.
        """
        return joined(over_rows(block) for block in self.evictable_blocks())

    def value_blocks(self) -> Iterator[Tensor]:
        """Values cut like `blocks`, `[H, tokens, value_dim]`, as they are stored."""
        return token_blocks(self.values, self.block_tokens)

    def key_blocks(self) -> Iterator[Tensor]:
        """Keys cut like `blocks`, `[H, tokens, head_dim]`, as they are stored."""
        return token_blocks(self.keys, self.block_tokens)

    def _rows(self) -> WindowRows:
        return WindowRows(self.queries, self.keys, self.scaling, self.softcap, self.sinks, self.visible, self.caps)

    def _mean_attention(self) -> Tensor:
        fused = fused_mean_attention(self._rows(), self.num_evictable)
        return self.reduce(lambda rows: rows.mean(dim=2)) if fused is None else fused

    def _value_norms(self) -> Tensor:
        norms = joined(block.float().abs().sum(dim=-1) for block in self.value_blocks())
        if self.caps is None:
            return norms
        return norms.masked_fill_(empty_places(self.caps, 0, self.num_tokens, self.num_evictable), 0.0)

    def _projected_norms(self) -> Tensor:
        assert self.output_weight is not None
        norms = joined(projected_norms(chunk, self.output_weight, self.max_block_elements) for chunk in self.values)
        return self.without_empty(norms[..., : self.num_evictable])
