"""The last queries of every layer, remembered between forwards: they judge what a later round may evict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from lavakv.attention.request import AttentionSettings
from lavakv.eviction.later import Observation


@dataclass
class _Forward:
    """What one forward left behind.

    Attributes:
        num_columns: how many of its last columns are remembered.
        queries: by layer `[B, query_heads, columns, head_dim]`.
        norms: by layer float32 `[B, columns]`, of the residual stream, where a policy needs them.
        rows: which sequence each one of the batch was then, or None: the batch is what it was.
    """

    num_columns: int
    queries: dict[int, Tensor] = field(default_factory=dict)
    norms: dict[int, Tensor] = field(default_factory=dict)
    rows: list[int] | None = None

    def last(self, parts: dict[int, Tensor], layer: int) -> Tensor | None:
        """What is remembered of a layer, rows and columns of today."""
        part = parts.get(layer)
        if part is None:
            return None
        part = part.narrow(-2 if part.ndim == 4 else -1, 0, self.num_columns)
        return part if self.rows is None else part.index_select(0, torch.tensor(self.rows, device=part.device))


class DeviceLog(Protocol):
    """Where captured steps write their queries; only who counts the steps knows how many are in it.

    Attributes:
        settings: the model's scaling, softcap and sinks, by layer.
    """

    settings: dict[int, AttentionSettings]

    def last(self, end: int, count: int) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Queries and norms of the `count` columns before column `end`, by layer, as tensors of their own."""


class QueryLog:
    """Queries of the last `window` columns, held by reference: a decode step copies nothing and launches nothing.

    Captured steps write theirs into a `DeviceLog`; they are read from there when something asks for them.

    Attributes:
        window: columns to remember.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self._forwards: list[_Forward] = []
        self._settings: dict[int, AttentionSettings] = {}
        self._device_log: DeviceLog | None = None
        self._unread = self._end = 0

    def __getstate__(self) -> dict[str, Any]:
        self._read()
        return self.__dict__

    @property
    def num_columns(self) -> int:
        """Last columns whose queries can judge a round, at most the window."""
        self._read()
        return self._num_remembered if self._settings else 0

    def count(self, device_log: DeviceLog, end: int) -> None:
        """Count one column that a captured step has written, the last before column `end`."""
        if self._device_log is not device_log:
            self._read()
            self._device_log = device_log
        self._unread, self._end = self._unread + 1, end

    def counts(self, device_log: DeviceLog) -> bool:
        """Whether the last column came by `count` of this one, and nothing has changed or been read since."""
        return self._device_log is device_log

    def _read(self) -> None:
        """Read what captured steps have written since the last time."""
        found, self._device_log = self._device_log, None
        if found is None:
            return
        count, self._unread = min(self._unread, self.window), 0
        if count:
            self._forwards.append(_Forward(count, *found.last(self._end, count)))
        self._settings.update(found.settings)
        self.end(succeeded=True)

    @property
    def _num_remembered(self) -> int:
        return min(sum(one.num_columns for one in self._forwards), self.window)

    def begin(self, num_columns: int) -> None:
        """Start a forward that brings so many columns."""
        if self._device_log is not None:
            self._read()
        self._forwards.append(_Forward(min(num_columns, self.window)))

    def note(self, layer: int, queries: Tensor, settings: AttentionSettings, norms: Tensor | None = None) -> None:
        """Remember a layer of the forward under way.

        Args:
            layer: index of the layer in the model.
            queries: `[B, query_heads, q, head_dim]`, as the attention sees them.
            settings: the model's scaling, softcap and sinks.
            norms: float32 `[B, q]`, or of the last columns alone, of the residual stream; None if not needed.
        """
        forward = self._forwards[-1]
        forward.queries[layer] = _own(queries.detach()[:, :, queries.shape[2] - forward.num_columns :])
        if norms is not None:
            forward.norms[layer] = _own(norms.detach()[:, norms.shape[1] - forward.num_columns :])
        self._settings[layer] = settings

    def end(self, succeeded: bool) -> None:
        """Close a forward and drop what lies before the window."""
        if not succeeded:
            self._forwards = self._forwards[:-1]
            return
        total = sum(one.num_columns for one in self._forwards)
        while self._forwards and total - self._forwards[0].num_columns >= self.window:
            total -= self._forwards.pop(0).num_columns

    def truncate(self, num_columns: int) -> None:
        """Forget the last columns."""
        self._read()
        while num_columns and self._forwards:
            last = self._forwards[-1]
            dropped = min(num_columns, last.num_columns)
            last.num_columns, num_columns = last.num_columns - dropped, num_columns - dropped
            if not last.num_columns:
                self._forwards.pop()

    def select(self, sequences: Sequence[int]) -> None:
        """Hold these sequences, in this order; nothing is copied before a round needs it."""
        self._read()
        for one in self._forwards:
            one.rows = list(sequences) if one.rows is None else [one.rows[row] for row in sequences]

    def snapshot(self) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """What is remembered, by layer: queries `[B, query_heads, num_columns, head_dim]`, norms `[B, num_columns]`."""
        self._read()
        found = [(layer, *self._parts(layer)) for layer in sorted(self._forwards[-1].queries if self._forwards else ())]
        queries = {layer: own.clone() for layer, own, _ in found if own is not None}
        return queries, {layer: norms.clone() for layer, _, norms in found if norms is not None}

    def restore(self, queries: Mapping[int, Tensor], norms: Mapping[int, Tensor]) -> None:
        """Remember what `snapshot` gave, and nothing else; it judges a round once a forward has brought settings."""
        self._forwards, self._settings = [], {}
        self._device_log, self._unread = None, 0
        if queries:
            columns = next(iter(queries.values())).shape[2]
            self._forwards = [_Forward(columns, dict(queries), dict(norms))]

    def observations(self, weight: Callable[[int], Tensor | None]) -> list[Observation]:
        """What judges the candidates of each layer: the queries of the last `num_columns` columns.

        Args:
            weight: gives a layer's output projection `[query_heads, value_dim, hidden]`, or None if not needed.
        """
        self._read()
        return [self._observation(layer, weight(layer)) for layer in sorted(self._settings)]

    def _observation(self, layer: int, weight: Tensor | None) -> Observation:
        queries, norms = self._parts(layer)
        assert queries is not None
        return Observation(queries, self._settings[layer], layer, weight, norms)

    def _parts(self, layer: int) -> tuple[Tensor | None, Tensor | None]:
        """Queries and norms of the last columns."""
        queries = self._joined([one.last(one.queries, layer) for one in self._forwards], -2)
        return queries, self._joined([one.last(one.norms, layer) for one in self._forwards], -1)

    def _joined(self, parts: Sequence[Tensor | None], dim: int) -> Tensor | None:
        """The last columns of all forwards, or None where one of them is not known."""
        known = [part for part in parts if part is not None]
        if len(known) < len(parts) or not known:
            return None
        joined = torch.cat(known, dim=dim)
        return joined.narrow(dim, joined.shape[dim] - self._num_remembered, self._num_remembered)


def _own(part: Tensor) -> Tensor:
    """A tensor that keeps nothing else alive."""
    return part if part.untyped_storage().nbytes() == part.nbytes else part.clone()
