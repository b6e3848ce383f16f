"""`append_and_attend` as one operator of PyTorch, which `torch.compile` hands on as it is.

Its tensors say all: what it writes is declared, and what it returns is known from shapes. `StoreTensors` holds what it
takes of a store. It is registered without `torch.library.custom_op`, whose bookkeeping for gradients takes 90 us of
Python a call, this 4 us (torch 2.13); there are no gradients.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from lavakv.attention.request import AttentionRequest, AttentionSettings
from lavakv.attention.static import append_and_attend
from lavakv.errors import UnsupportedError
from lavakv.store.growing import GrowingKeyValues
from lavakv.store.past import RaggedPast
from lavakv.store.ragged import RaggedStore

MIN_ROWS = 2  # compilers make a graph of its own for sizes 0 and 1, so a smaller past is filled up
_pasts: WeakValueDictionary[tuple[int, int], RaggedPast] = WeakValueDictionary()  # by the addresses of their tensors

torch.library.define(
    "lavakv::append_and_attend",
    "(Tensor queries, Tensor keys, Tensor values, Tensor(a!) tail_keys, Tensor(b!) tail_values, "
    "Tensor past_keys, Tensor past_values, Tensor past_columns, Tensor offsets, Tensor length, "
    "Tensor? tail_mask, Tensor? past_mask, Tensor? sinks, float scaling, float? softcap) -> Tensor",
    tags=torch.Tag.needs_fixed_stride_order,
)


class StoreTensors(NamedTuple):
    """A store's tensors, which stay where they are for as long as the past does and the tail's capacity lasts.

    Attributes:
        tail_keys: `[B, H, capacity, head_dim]`, written to.
        tail_values: `[B, H, capacity, value_dim]`, written to.
        past_keys: `[entries, head_dim]`, at least `MIN_ROWS` rows.
        past_values: `[entries, value_dim]`, likewise.
        past_columns: int32 `[entries]`, likewise.
        offsets: int64 `[B * H + 1]` on the CPU: segment `i` is rows `offsets[i]` to `offsets[i + 1]` of the past.
    """

    tail_keys: Tensor
    tail_values: Tensor
    past_keys: Tensor
    past_values: Tensor
    past_columns: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, store: RaggedStore) -> StoreTensors:
        """What the operator takes of an evicted store, after capacity has been reserved."""
        assert store.past is not None
        assert store.tail is not None
        past = store.past
        keys, values, columns = (_filled_up(part) for part in (past.keys, past.values, past.columns))
        _pasts[keys.data_ptr(), past.host_offsets.data_ptr()] = past
        return cls(*store.tail.buffers, keys, values, columns, past.host_offsets)

    def mark_sizes_dynamic(self) -> None:
        """Let one graph of `torch.compile` serve all layers and calls, whatever their numbers of entries."""
        for part in self[2:5]:
            torch._dynamo.maybe_mark_dynamic(part, 0)
        for part in self[:2]:
            torch._dynamo.maybe_mark_dynamic(part, 2)

    def attend(self, keys: Tensor, values: Tensor, request: AttentionRequest, length: Tensor) -> Tensor:
        """Call the operator; see `append_and_attend`.

        Returns:
            `[B, q, query_heads, value_dim]` in the queries' dtype, contiguous.
        """
        queries, (scaling, softcap, sinks), tail_mask, past_mask = request
        answer: Tensor = torch.ops.lavakv.append_and_attend(
            queries, keys, values, *self, length, tail_mask, past_mask, sinks, scaling, softcap
        )
        return answer


def _append_and_attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    tail_keys: Tensor,
    tail_values: Tensor,
    past_keys: Tensor,
    past_values: Tensor,
    past_columns: Tensor,
    offsets: Tensor,
    length: Tensor,
    tail_mask: Tensor | None,
    past_mask: Tensor | None,
    sinks: Tensor | None,
    scaling: float,
    softcap: float | None,
) -> Tensor:
    """The operator on a CPU and on a CUDA device."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (queries, keys, values)):
        raise UnsupportedError(
            "lavakv::append_and_attend", expected="tensors without gradients", got="one that requires them",
            fix="Decode under torch.no_grad() or torch.inference_mode().",
        )  # fmt: skip
    past = _past(past_keys, past_values, past_columns, offsets)
    store = RaggedStore.around(past, GrowingKeyValues(tail_keys, tail_values))
    request = AttentionRequest(queries, AttentionSettings(scaling, softcap, sinks), tail_mask, past_mask)
    return append_and_attend(store, keys, values, request, length).transpose(1, 2).contiguous()


def _fake(queries: Tensor, *others: Any) -> Tensor:
    """What compilers know of the answer: sizes, dtype, device."""
    batch, query_heads, num_queries, _ = queries.shape
    tail_values: Tensor = others[3]
    return queries.new_empty(batch, num_queries, query_heads, tail_values.shape[3])


def _past(keys: Tensor, values: Tensor, columns: Tensor, offsets: Tensor) -> RaggedPast:
    """The past whose tensors these are, with what is planned for it; a new one where they are copies."""
    known = _pasts.get((keys.data_ptr(), offsets.data_ptr()))
    if known is not None:
        return known
    counts: list[int] = offsets.diff().tolist()
    num_entries = sum(counts)
    return RaggedPast(keys[:num_entries], values[:num_entries], columns[:num_entries], counts)


def _filled_up(part: Tensor) -> Tensor:
    missing = MIN_ROWS - part.shape[0]
    return part if missing <= 0 else torch.cat([part, part.new_zeros(missing, *part.shape[1:])])


torch.library.impl("lavakv::append_and_attend", ("cpu", "cuda"), _append_and_attend)
torch.library.register_fake("lavakv::append_and_attend", _fake)
