"""What the scores of the family read: one sequence's part of a layer, and how its entries rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from tests.oracle.forwards import Capture
from tests.oracle.reference import attention_rows


@dataclass
class View:
    """One sequence of a capture in one number format; positions count from its first token.

    Args:
        capture: what the layer saw.
        window: last tokens, always kept.
        sequence, num_padding: row of the batch, and its columns of padding on the left.
        dtype: everything is computed in it; float64 shows how far float32 rounds.
        layer: the layer's index in the model.
        earlier: views of the compressed layers before it.
    """

    capture: Capture
    window: int
    sequence: int = 0
    num_padding: int = 0
    dtype: torch.dtype = torch.float32
    layer: int = 0
    earlier: Sequence[View] = ()

    def _own(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor[self.sequence, :, self.num_padding :].to(self.dtype)

    @cached_property
    def keys(self) -> torch.Tensor:
        """`[KV heads, positions, head_dim]`."""
        return self._own(self.capture.keys)

    @cached_property
    def values(self) -> torch.Tensor:
        """Values of the evictable positions."""
        return self.all_values[:, : self.num_evictable]

    @cached_property
    def all_values(self) -> torch.Tensor:
        """Values of all positions."""
        return self._own(self.capture.values)

    @cached_property
    def entering_norms(self) -> torch.Tensor:
        """L2 norm of what entered the layer at each token of the window."""
        stream = self.capture.stream[self.sequence, -self.window :].detach().to(self.dtype)
        return stream.square().sum(dim=1).sqrt()

    @cached_property
    def stream_norms(self) -> torch.Tensor:
        """`entering_norms`, times what a norm divides the attention's output by, where there is one."""
        norms = self.entering_norms
        if self.capture.norm is None:
            return norms
        output = self.capture.output[self.sequence, -self.window :].to(self.dtype)
        epsilon = getattr(self.capture.norm, "eps", 0.0) or getattr(self.capture.norm, "variance_epsilon", 0.0)
        return norms * (output.square().mean(dim=1) + epsilon).sqrt()

    def unrotated(self, kind: int, head: int) -> torch.Tensor:
        """Queries (0) or keys (1) of one head before their rotation, `[positions, head_dim]`."""
        return self._own(self.capture.unrotated[kind])[head]

    @property
    def repeated(self) -> torch.Tensor:
        """Largest attention of repeated tokens by query head, and over their streams, `[2, query heads, evictable]`."""
        return self.capture.repeated[self.sequence][..., : self.num_evictable].to(self.dtype)

    @property
    def num_evictable(self) -> int:
        return self.keys.shape[1] - self.window

    @property
    def heads(self) -> range:
        """KV heads."""
        return range(len(self.keys))

    def queries_of(self, head: int) -> range:
        """Query heads that read a KV head."""
        group = self.capture.queries.shape[1] // len(self.keys)
        return range(head * group, (head + 1) * group)

    def rows_at(self, query: int, places: Sequence[int]) -> torch.Tensor:
        """Attention of the prompt's tokens at `places` in one query head, `[places, positions]`; zero behind each."""
        first = min(places)
        return self._rows(query, self.keys.shape[1] - first)[[place - first for place in places]]

    def _rows(self, query: int, count: int) -> torch.Tensor:
        sink = None if self.capture.sinks is None else self.capture.sinks[query].to(self.dtype)
        queries = self._own(self.capture.queries)[query, -count:]
        keys = self.keys[query // len(self.queries_of(0))]
        return attention_rows(queries, keys, self.capture.scaling, self.capture.softcap, sink)

    @cached_property
    def whole(self) -> list[torch.Tensor]:
        """By query head: attention of the window's rows to all positions."""
        return [self._rows(query, self.window) for query in range(self.capture.queries.shape[1])]

    @cached_property
    def seen(self) -> list[torch.Tensor]:
        """By query head: attention of the window's rows to the evictable positions, not renormalised."""
        return [rows[:, : self.num_evictable] for rows in self.whole]

    @cached_property
    def received(self) -> list[torch.Tensor]:
        """By query head: what each evictable position receives from all rows of the prompt together."""
        everyone = range(self.capture.queries.shape[1])
        return [self._rows(query, self.keys.shape[1]).sum(dim=0)[: self.num_evictable] for query in everyone]

    @cached_property
    def output_norms(self) -> list[torch.Tensor]:
        """By KV head: L1 norm of each evictable value behind the output projection, mean over the query heads."""
        norms = []
        for head in self.heads:
            parts = [self.projection_of(query) for query in self.queries_of(head)]
            norms.append(sum((self.values[head] @ part).abs().sum(dim=1) for part in parts) / len(parts))
        return norms

    def projection_of(self, query: int) -> torch.Tensor:
        """What the output projection does to the values of one query head, `[value_dim, hidden]`."""
        size = self.values.shape[2]
        return self.capture.projection[:, query * size : (query + 1) * size].detach().to(self.dtype).T

    def to_stream(self, query: int) -> torch.Tensor:
        """`projection_of`, and the gain of the norm behind it, where there is one."""
        norm = self.capture.norm
        if norm is None:
            return self.projection_of(query)
        weight = norm.weight.detach().to(self.dtype)
        return self.projection_of(query) * (1 + weight if "Gemma" in type(norm).__name__ else weight)


@dataclass
class Ranking:
    """Scores of the evictable positions by KV head, and the positions that a policy keeps outright."""

    scores: list[list[float]]
    protected: list[set[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.protected = self.protected or [set() for _ in self.scores]
        assert all(math.isfinite(score) for row in self.scores for score in row)

    def rank(self, head: int, place: int) -> tuple[bool, float, int, int]:
        """Sorts a layer's entries, best first."""
        return place not in self.protected[head], -self.scores[head][place], head, place

    def best_first(self, head: int) -> list[int]:
        """A head's positions, best first."""
        return sorted(range(len(self.scores[head])), key=lambda place: self.rank(head, place))
