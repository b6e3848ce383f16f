"""A later round on a ragged layer: its candidates as one padded table, and what it keeps out of past and tail.

Nothing is read back from the device: sizes follow from the segments' offsets, which the host knows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lavakv.store.base import CandidateTable
from lavakv.store.growing import GrowingKeyValues
from lavakv.store.past import RaggedPast, Segments, Stored


def candidate_table(
    past: Segments | None, keys: Tensor, values: Tensor, due: Tensor, num_columns: int, window: int
) -> CandidateTable:
    """Candidates of one sequence, by column, and the window behind them; see `LayerStore.candidates`.

    Args:
        past: the sequence's segments, one a head; None before the first eviction.
        keys: `[H, tail, head_dim]`.
        values: `[H, tail, value_dim]`.
        due: int64 `[columns]`, columns of the tail that are candidates.
        num_columns: columns seen, the tail included.
        window: columns of the window.
    """
    heads, tail = keys.shape[:2]
    lengths = [0] * heads if past is None else past.lengths
    caps = [length + len(due) for length in lengths]
    places = max(caps)
    columns = torch.full((heads, places), -1, dtype=torch.int64, device=keys.device)
    tables = [part.new_zeros(heads, places + window, part.shape[2]) for part in (keys, values)]
    first = torch.tensor(lengths, device="cpu").to(keys.device, non_blocking=True)
    head = torch.arange(heads, device=keys.device)
    due_places = first[:, None] + torch.arange(len(due), device=keys.device)
    columns.scatter_(1, due_places, due.expand(heads, -1))
    for table, part in zip(tables, (keys, values), strict=True):
        table[:, places:] = part[:, tail - window :]
        table[head[:, None], due_places] = part.index_select(1, due - (num_columns - tail))
    if past is not None and len(past.columns):
        order, segment, rank = past.by_column()
        columns[segment, rank] = past.columns.long()[order]
        for table, part in zip(tables, (past.keys, past.values), strict=True):
            table[segment, rank] = part[order]
    return CandidateTable(tables[0], tables[1], columns, caps)


def gather_again(
    past: RaggedPast, tail: GrowingKeyValues, columns: Tensor, counts: Sequence[int], tail_start: int, stored: Stored
) -> RaggedPast:
    """A new past out of an old one, whose entries are copied as they are kept, and the tail behind it.

    Args:
        past: survivors so far.
        tail: `[B, H, columns, dim]`, from column `tail_start` on.
        columns: int64 `[entries]`, what each segment keeps, best first, segments back to back.
        counts: entries of each segment.
        tail_start: columns before the tail.
        stored: makes what is kept of keys and values `[entries, dim]` of the tail.
    """
    device, num_columns = columns.device, tail_start + tail.length
    lengths = torch.tensor(counts, device="cpu").to(device, non_blocking=True)
    segment = torch.repeat_interleave(torch.arange(len(counts), device=device), lengths, output_size=len(columns))
    order, own, _ = past.sequence(0, len(counts)).by_column()
    held = own * num_columns + past.columns.long()[order]  # ascending: by segment, then by column
    found = torch.searchsorted(held, segment * num_columns + columns).clamp(max=max(len(held) - 1, 0))
    in_tail = columns >= tail_start
    old_rows = order[found] if len(held) else None
    buffers, capacity = tail.buffers, tail.buffers[0].shape[2]
    if not capacity:
        rows = slice(None) if old_rows is None else old_rows
        return RaggedPast(past.keys[rows], past.values[rows], columns.to(torch.int32), counts)
    new_rows = segment * capacity + (columns - tail_start).clamp(min=0)
    new = stored(*(buffer.flatten(0, 2).index_select(0, new_rows) for buffer in buffers))
    if old_rows is not None:
        old = past.keys.index_select(0, old_rows), past.values.index_select(0, old_rows)
        new = torch.where(in_tail[:, None], new[0], old[0]), torch.where(in_tail[:, None], new[1], old[1])
    return RaggedPast(*new, columns.to(torch.int32), counts)
