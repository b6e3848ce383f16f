"""vLLM's attention backend for a CPU, whose kernels also serve heads of unequal length, each as one sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm import _custom_ops as ops
from vllm import envs
from vllm.forward_context import get_forward_context
from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadata,
    CPUAttentionMetadataBuilder,
)
from vllm.v1.kv_cache_interface import FullAttentionSpec, replace_as

from lavakv.vllm.checks import check_attention
from lavakv.vllm.prompts import WindowRows
from lavakv.vllm.spec import EvictedSpec
from lavakv.vllm.state import WorkerState, installed
from lavakv.vllm.step import CutRows, SplitStep, cut_rows, split_step


class Backend(CPUAttentionBackend):
    """vLLM's backend for a CPU, with eviction."""

    @staticmethod
    def get_impl_cls() -> type[Attention]:
        """The class that attends."""
        return Attention

    @staticmethod
    def get_builder_cls() -> type[MetadataBuilder]:
        """The class that prepares a step."""
        return MetadataBuilder

    @classmethod
    def customize_spec(cls, spec: Any) -> Any:
        """The spec of a layer, with the settings for the scheduler's process; other kinds of attention as they are."""
        return replace_as(spec, EvictedSpec, settings=installed().settings) if type(spec) is FullAttentionSpec else spec


@dataclass(kw_only=True)
class StepMetadata(CPUAttentionMetadata):
    """What attention needs in one step; the base's own fields are of all rows, and serve where none is cut.

    Attributes:
        state: of the worker.
        layers: index of each layer by vLLM's name.
        windows: rows that hold part of a prompt's window.
        cut: evicted requests, or None.
        schedules: of each layer, how the kernel divides the work on them.
        whole: for the other rows where some are cut, or None if there are none.
        whole_tokens: int64, their tokens.
    """

    state: WorkerState
    layers: dict[str, int]
    windows: list[WindowRows]
    cut: CutRows | None = None
    schedules: list[Tensor] | None = None
    whole: CPUAttentionMetadata | None = None
    whole_tokens: Tensor | None = None


class MetadataBuilder(CPUAttentionMetadataBuilder):
    """Splits the rows of each step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._state = installed()
        self._layers = {name: index for index, name in enumerate(self.layer_names)}
        self._is_bound = False

    def build(
        self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False
    ) -> CPUAttentionMetadata:
        """What attention needs in one step; takes pages for the new tokens of evicted requests."""
        if not self._is_bound:
            context = self.vllm_config.compilation_config.static_forward_context
            self._state.bind(self.layer_names, [context[name].kv_cache for name in self.layer_names], self.isa)
            self._is_bound = True
        common, stock = common_attn_metadata, super().build
        step = split_step(self._state, common)
        metadata = StepMetadata(
            **vars(stock(common_prefix_len, common, fast_build)),
            state=self._state, layers=self._layers, windows=step.windows,
        )  # fmt: skip
        if step.cut:
            if step.whole:
                rows, tokens = _rows_alone(common, step)
                metadata.whole, metadata.whole_tokens = stock(common_prefix_len, rows, fast_build), tokens
            metadata.cut = cut_rows(self._state.head_pages, self.num_kv_heads, common, step)
            metadata.schedules = [self._schedule(metadata.cut, lengths) for lengths in metadata.cut.lengths]
        return metadata

    def _schedule(self, cut: CutRows, lengths: Tensor) -> Tensor:
        """How the kernel divides a layer's work on evicted requests."""
        found: Tensor = ops.cpu_attn_get_scheduler_metadata(
            num_reqs=len(lengths), num_heads=self.num_heads // self.num_kv_heads, num_kv_heads=1,
            head_dim=self.head_dim, seq_lens=lengths, dtype=self.dtype, query_start_loc=cut.starts, causal=True,
            sliding_window_size=-1, isa=self.isa, enable_kv_split=envs.VLLM_CPU_ATTN_SPLIT_KV, dynamic_causal=None,
            kv_cache_dtype=self.kv_cache_dtype,
        )  # fmt: skip
        return found


def _rows_alone(common: Any, step: SplitStep) -> tuple[Any, Tensor]:
    """The common metadata of the rows that are not cut, and their tokens."""
    starts = step.starts
    sizes = [starts[row + 1] - starts[row] for row in step.whole]
    tokens = torch.cat([torch.arange(starts[row], starts[row + 1], device="cpu") for row in step.whole])
    rows = torch.tensor(step.whole, device="cpu")
    own_starts = torch.tensor([0, *sizes], dtype=torch.int32, device="cpu").cumsum(0, dtype=torch.int32)
    alone = common.replace(
        query_start_loc=own_starts, query_start_loc_cpu=own_starts, seq_lens=common.seq_lens[rows],
        num_reqs=len(sizes), num_actual_tokens=sum(sizes), max_query_len=max(sizes),
        block_table_tensor=common.block_table_tensor[rows], slot_mapping=common.slot_mapping[tokens],
    )  # fmt: skip
    return alone, tokens


class Attention(CPUAttentionBackendImpl):
    """Writes and attends: rows that are not cut as vLLM does, evicted requests head by head."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_attention(self)

    def do_kv_cache_update(
        self, layer: Any, key: Tensor, value: Tensor, kv_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        """Write the step's keys and values."""
        found = get_forward_context().attn_metadata
        step = found.get(layer.layer_name) if isinstance(found, dict) else found
        if not isinstance(step, StepMetadata) or step.cut is None:
            super().do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)
            return
        if (tokens := step.whole_tokens) is not None:
            super().do_kv_cache_update(layer, key[tokens], value[tokens], kv_cache, slot_mapping[tokens])
        index, size = step.layers[layer.layer_name], self.head_size
        step.state.pages.write(_taken(key, size, step.cut), _taken(value, size, step.cut), step.cut.slots[index])

    def forward(
        self, layer: Any, query: Tensor, key: Tensor, value: Tensor, kv_cache: Tensor, attn_metadata: Any,
        output: Tensor, output_scale: Tensor | None = None, output_block_scale: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Attend, and take what eviction needs of prompts; shapes as in the base class."""
        if attn_metadata is None:
            return output
        assert isinstance(attn_metadata, StepMetadata)
        step = attn_metadata
        if step.cut is None:
            super().forward(layer, query, key, value, kv_cache, step, output, output_scale, output_block_scale)
        else:
            if step.whole is not None:
                tokens = step.whole_tokens
                part = torch.empty_like(output[tokens])
                super().forward(layer, query[tokens], key, value, kv_cache, step.whole, part)
                output[tokens] = part
            self._attend_to_heads(step, step.cut, step.layers[layer.layer_name], query, output)
        for rows in step.windows:
            self._note_window(step, rows, step.layers[layer.layer_name], query, output)
        return output

    def _attend_to_heads(self, step: StepMetadata, cut: CutRows, index: int, query: Tensor, output: Tensor) -> None:
        """Attention of evicted requests in one layer."""
        size, group, pages = self.head_size, self.num_queries_per_kv, step.state.pages
        queries = query.reshape(-1, group, size)
        queries = queries if cut.tokens is None else queries[cut.tokens]
        found = output.view(-1, group, size)[: len(queries)] if cut.tokens is None else torch.empty_like(queries)
        assert step.schedules is not None
        ops.cpu_attention_with_kv_cache(
            query=queries, key_cache=pages.key_blocks, value_cache=pages.value_blocks, output=found,
            query_start_loc=cut.starts, seq_lens=cut.lengths[index], scale=self.scale, causal=True, alibi_slopes=None,
            sliding_window=-1, block_table=cut.tables[index], softcap=0, scheduler_metadata=step.schedules[index],
            s_aux=None, dynamic_causal=None, k_scale=1.0, v_scale=1.0, kv_cache_dtype=self.kv_cache_dtype,
        )  # fmt: skip
        if cut.tokens is not None:
            output.view(-1, group, size)[cut.tokens] = found

    def _note_window(self, step: StepMetadata, rows: WindowRows, index: int, query: Tensor, output: Tensor) -> None:
        """Take the window's queries and outputs of a prompt, and score the layer if they are complete."""
        queries = query.view(len(query), self.num_heads, self.head_size)[rows.start : rows.stop]
        rows.prompt.add_queries(index, queries)
        step.state.note_outputs(rows, index, output[rows.start : rows.stop].reshape(len(queries), -1))
        if rows.is_last:
            step.state.score(rows, index, self.scale, self.num_heads)


def _taken(numbers: Tensor, head_size: int, cut: CutRows) -> Tensor:
    """Keys or values of evicted requests, `[sequences' tokens, 1, head_dim]`."""
    every = numbers.reshape(-1, 1, head_size)
    return every[: cut.slots.shape[1]] if cut.tokens is None else every[cut.tokens]
