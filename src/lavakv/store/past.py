"""The ragged past: each head's survivors back to back in one flat buffer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lavakv.store.blocks import Blocks, plan_blocks
from lavakv.store.tiles import Tiles, plan_tiles

Stored = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # keys and values as a past keeps them


class Segments(NamedTuple):
    """Consecutive segments of a past.

    Attributes:
        keys: `[entries, head_dim]`.
        values: `[entries, value_dim]`.
        columns: int32 `[entries]`.
        lengths: entries of each segment.
    """

    keys: Tensor
    values: Tensor
    columns: Tensor
    lengths: list[int]

    def by_column(self) -> tuple[Tensor, Tensor, Tensor]:
        """Entries by segment, then column, int64 `[entries]` each: their rows, segments, and ranks inside those."""
        device = self.columns.device
        lengths = torch.tensor(self.lengths, device="cpu").to(device, non_blocking=True)
        index = torch.arange(len(self.columns), device=device)
        labels = torch.arange(len(self.lengths), device=device)
        segment = torch.repeat_interleave(labels, lengths, output_size=len(self.columns))
        order = (segment * 2**32 + self.columns).sort().indices
        return order, segment, index - (lengths.cumsum(0) - lengths)[segment]


class RaggedPast:
    """Survivors of one layer, in rank order inside each segment; see `layout.md`. Frozen once made.

    Attributes:
        keys: `[entries, head_dim]`, or rows of bytes where entries are kept in fewer bits.
        values: `[entries, value_dim]`, likewise.
        columns: int32 `[entries]`, where each entry came from.
        offsets: `segments + 1` integers: segment `i` is rows `offsets[i]` to `offsets[i + 1]`.
        segments: views of each segment's keys and values, cut once for all decode steps to come.
        planned_tiles: what kernels plan from the segments' lengths, by what they planned it for.
        rectangle: keys and values as `[segments, length, dim]` where all segments are equally long, else None.
    """

    def __init__(self, keys: Tensor, values: Tensor, columns: Tensor, counts: Sequence[int]) -> None:
        self.keys, self.values, self.columns = keys, values, columns
        self.offsets = list(accumulate(counts, initial=0))
        self.segments = [(keys[start:stop], values[start:stop]) for start, stop in pairwise(self.offsets)]
        self._num_chunks: dict[int, int] = {}
        self.rectangle: tuple[Tensor, Tensor] | None = None
        if len(set(counts)) == 1 and counts[0]:
            self.rectangle = (keys.view(len(counts), counts[0], -1), values.view(len(counts), counts[0], -1))
        self._tiles: dict[int, Tiles] = {}
        self.planned_tiles: dict[Hashable, Any] = {}
        self._blocks: dict[tuple[int, torch.dtype], list[Blocks | None] | None] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Its entries alone: pickled one by one, each view of a segment would bring the whole buffer along."""
        return RaggedPast, (self.keys, self.values, self.columns, self.lengths())

    @classmethod
    def gather(
        cls, keys: Tensor, values: Tensor, columns: Tensor, counts: Sequence[int], stored: Stored | None = None
    ) -> RaggedPast:
        """Copy chosen columns out of `[B, H, columns, dim]`.

        Args:
            keys: `[B, H, columns, head_dim]`.
            values: `[B, H, columns, value_dim]`.
            columns: int64 `[entries]`, what each head of each sequence keeps, best first, back to back.
            counts: entries of each head of each sequence.
            stored: makes what is kept of keys and values `[entries, dim]`; None keeps them as they are.
        """
        rows = torch.split(columns, list(counts))
        kept = _gathered(keys, rows), _gathered(values, rows)
        return cls(*(kept if stored is None else stored(*kept)), columns.to(torch.int32), counts)

    def with_entries(self, keys: Tensor, values: Tensor) -> RaggedPast:
        """The same segments with other keys and values `[entries, dim]`; what is planned for one serves both."""
        twin = RaggedPast(keys, values, self.columns, self.lengths())
        twin._num_chunks, twin._tiles, twin.planned_tiles = self._num_chunks, self._tiles, self.planned_tiles
        twin._blocks, twin.host_offsets = self._blocks, self.host_offsets
        return twin

    def sequence(self, first: int, last: int) -> Segments:
        """The segments `first` to `last`, views."""
        rows = slice(self.offsets[first], self.offsets[last])
        return Segments(self.keys[rows], self.values[rows], self.columns[rows], self.lengths()[first:last])

    def trimmed(self, counts: Sequence[int]) -> RaggedPast:
        """A copy with only the first `counts[i]` entries of each segment; never more than it has."""
        spans = list(zip(pairwise(self.offsets), counts, strict=True))
        assert all(0 <= count <= stop - start for (start, stop), count in spans)
        kept = [slice(start, start + count) for (start, _), count in spans]
        keys, values, columns = (torch.cat([t[rows] for rows in kept]) for t in (self.keys, self.values, self.columns))
        return RaggedPast(keys, values, columns, counts)

    def selected(self, sequences: Sequence[int], heads: int) -> RaggedPast:
        """A copy that holds these sequences of `heads` segments each, in this order."""
        lengths = self.lengths()
        spans = [slice(self.offsets[row * heads], self.offsets[(row + 1) * heads]) for row in sequences]
        keys, values, columns = (torch.cat([t[span] for span in spans]) for t in (self.keys, self.values, self.columns))
        return RaggedPast(
            keys, values, columns, [n for row in sequences for n in lengths[row * heads : (row + 1) * heads]]
        )

    def num_chunks(self, size: int) -> int:
        """Into how many chunks of at most `size` entries the segments fall; counted once."""
        if size not in self._num_chunks:
            self._num_chunks[size] = sum(-(-length // size) for length in self.lengths())
        return self._num_chunks[size]

    @cached_property
    def host_offsets(self) -> Tensor:
        """`offsets` as an int64 tensor on the CPU."""
        return torch.tensor(self.offsets, device="cpu")

    def blocks(self, num_sequences: int) -> list[Blocks | None] | None:
        """Each sequence's entries in equal blocks, planned once; see `blocks.py`.

        None where segments are too short for it; None in the list for a sequence without entries.
        """
        planned_for = num_sequences, self.keys.dtype
        if planned_for not in self._blocks:
            with torch.inference_mode(False):  # or a later forward with gradients could not use it
                self._blocks[planned_for] = self._planned_blocks(num_sequences)
        return self._blocks[planned_for]

    def _planned_blocks(self, num_sequences: int) -> list[Blocks | None] | None:
        heads, planned = (len(self.offsets) - 1) // num_sequences, list[Blocks | None]()
        for first in range(0, len(self.offsets) - 1, heads):
            start, *_, stop = offsets = self.offsets[first : first + heads + 1]
            own = [offset - start for offset in offsets]
            blocks = plan_blocks(own, self.keys.dtype, self.keys.device) if stop > start else None
            if blocks is None and stop > start:
                return None
            planned.append(blocks)
        return planned

    def part(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the segments `first` to `last`, a view."""
        rows = slice(self.offsets[first], self.offsets[last])
        return self.keys[rows], self.values[rows]

    @property
    def num_entries(self) -> int:
        """Entries of all segments."""
        return self.offsets[-1]

    def lengths(self) -> list[int]:
        """Entries of each segment."""
        return [stop - start for start, stop in pairwise(self.offsets)]

    def tiles(self, size: int) -> Tiles:
        """The segments cut into tiles of at most `size` entries, planned once. See `tiles.py`."""
        if size not in self._tiles:
            num_tiles = self.num_chunks(size)
            device = self.keys.device
            with torch.inference_mode(False):
                offsets = torch.tensor(self.offsets, device="cpu", pin_memory=device.type == "cuda")
                self._tiles[size] = plan_tiles(offsets.to(device, non_blocking=True), size, num_tiles)
        return self._tiles[size]

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry's key and value."""
        return self.keys.shape[1] * self.keys.itemsize + self.values.shape[1] * self.values.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return self.keys.nbytes + self.values.nbytes


def _gathered(source: Tensor, columns: Sequence[Tensor]) -> Tensor:
    """Rows of all segments, `[entries, dim]`."""
    heads = source.shape[1]
    flat = source.new_empty(sum(len(rows) for rows in columns), source.shape[3])
    start = 0
    for segment, rows in enumerate(columns):
        target = flat[start : start + len(rows)]
        torch.index_select(source[segment // heads, segment % heads], 0, rows, out=target)
        start += len(rows)
    return flat
