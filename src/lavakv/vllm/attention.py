"""What lavakv adds to an attention backend of vLLM, whichever it is: rows of evicted requests go head by head.

Both classes are mixed into vLLM's own and call them for what is not evicted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.forward_context import get_forward_context
from vllm.v1.kv_cache_interface import FullAttentionSpec, replace_as

from lavakv.vllm.checks import check_attention
from lavakv.vllm.layer_pages import LayerPages
from lavakv.vllm.prompts import WindowRows
from lavakv.vllm.spec import EvictedSpec
from lavakv.vllm.state import WorkerState, installed
from lavakv.vllm.step import CutRows, cut_rows, rows_alone, split_step


@dataclass(kw_only=True)
class EvictionStep:
    """What attention needs in one step beside the backend's own fields, which are of all rows.

    Attributes:
        state: of the worker.
        layers: index of each layer by vLLM's name.
        windows: rows of which something is gathered for their prompt's scores.
        cut: evicted requests, or None.
        whole: the backend's metadata of the other rows where some are cut, or None if there are none.
        whole_tokens: int64, their tokens.
    """

    state: WorkerState
    layers: dict[str, int]
    windows: list[WindowRows]
    cut: CutRows | None = None
    whole: Any = None
    whole_tokens: Tensor | None = None


def evicted_spec(spec: Any) -> Any:
    """A layer's spec with the settings, for the scheduler's process; other kinds of attention as they are."""
    return replace_as(spec, EvictedSpec, settings=installed().settings) if type(spec) is FullAttentionSpec else spec


class EvictingBuilder(ABC):
    """Splits the rows of each step; mixed into a metadata builder.

    Attributes:
        metadata: the backend's own with `EvictionStep`.
    """

    metadata: type[Any]
    layer_names: list[str]
    vllm_config: Any
    device: torch.device

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._state = installed()
        self._layers = {name: index for index, name in enumerate(self.layer_names)}
        self._is_bound = False

    @abstractmethod
    def pages_of(self, caches: list[Tensor]) -> LayerPages:
        """The caches of all layers as pages."""

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Any:
        """What attention needs in one step; takes pages for the new tokens of evicted requests."""
        parent: Any = super()
        common, state = common_attn_metadata, self._bound()
        step = split_step(state, common)
        metadata = self.metadata(
            **vars(parent.build(common_prefix_len, common, fast_build)),
            state=state, layers=self._layers, windows=step.windows,
        )  # fmt: skip
        if step.cut:
            if step.whole:
                rows, metadata.whole_tokens = rows_alone(common, step)
                metadata.whole = parent.build(common_prefix_len, rows, fast_build)
            metadata.cut = cut_rows(state.head_pages, state.pages.num_heads, state.block_rows, step).on(self.device)
        return metadata

    def _bound(self) -> WorkerState:
        """The state of the worker, which learns of the caches in the first step."""
        if not self._is_bound:
            context = self.vllm_config.compilation_config.static_forward_context
            self._state.bind(self.layer_names, self.pages_of([context[name].kv_cache for name in self.layer_names]))
            self._is_bound = True
        return self._state


class EvictingAttention(ABC):
    """Writes and attends: rows that are not cut as vLLM does, evicted requests head by head; mixed into attention."""

    head_size: int
    num_heads: int
    num_queries_per_kv: int
    scale: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_attention(self)

    @abstractmethod
    def attend_to_heads(self, step: Any, index: int, queries: Tensor) -> Tensor:
        """Attention of evicted requests in one layer.

        Args:
            step: the metadata of the step.
            index: of the layer.
            queries: `[sequences' tokens, G, head_dim]`, every KV head of every request being a sequence.

        Returns:
            The same shape.
        """

    def do_kv_cache_update(
        self, layer: Any, key: Tensor, value: Tensor, kv_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        """Write the step's keys and values."""
        parent: Any = super()
        found = get_forward_context().attn_metadata
        step = found.get(layer.layer_name) if isinstance(found, dict) else found
        if not isinstance(step, EvictionStep) or step.cut is None:
            parent.do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)
            return
        if (tokens := step.whole_tokens) is not None:
            parent.do_kv_cache_update(layer, key[tokens], value[tokens], kv_cache, slot_mapping[tokens])
        slots = step.cut.slots[step.layers[layer.layer_name]]
        keys, values = (_taken(numbers.reshape(-1, 1, self.head_size), step.cut) for numbers in (key, value))
        step.state.pages.write(keys, values, slots)

    def forward(
        self, layer: Any, query: Tensor, key: Tensor, value: Tensor, kv_cache: Tensor, attn_metadata: Any,
        output: Tensor, output_scale: Tensor | None = None, output_block_scale: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Attend, and take what eviction needs of prompts; shapes as in the base class."""
        parent: Any = super()
        step = attn_metadata
        if step is None or step.cut is None:
            parent.forward(layer, query, key, value, kv_cache, step, output, output_scale, output_block_scale)
        else:
            if (tokens := step.whole_tokens) is not None:
                part = torch.empty_like(output[tokens])
                parent.forward(layer, query[tokens], key, value, kv_cache, step.whole, part)
                output[tokens] = part
            self._attend_to_cut(step, step.layers[layer.layer_name], query, output)
        for rows in step.windows if step is not None else ():
            self._note_window(step, rows, step.layers[layer.layer_name], query, output)
        return output

    def _attend_to_cut(self, step: Any, index: int, query: Tensor, output: Tensor) -> None:
        rows = -1, self.num_queries_per_kv, self.head_size
        found = self.attend_to_heads(step, index, _taken(query.reshape(rows), step.cut))
        if step.cut.tokens is None:
            output.view(rows)[: len(found)] = found
        else:
            output.view(rows)[step.cut.tokens] = found

    def _note_window(self, step: EvictionStep, rows: WindowRows, index: int, query: Tensor, output: Tensor) -> None:
        """Take a prompt's queries and its window's outputs, and score the layer if they are complete."""
        queries = query.view(len(query), self.num_heads, self.head_size)[rows.start : rows.stop]
        rows.prompt.add_queries(index, queries)
        if rows.window_start < rows.stop:
            step.state.note_outputs(rows, index, output[rows.window_start : rows.stop].flatten(1))
        if rows.is_last:
            step.state.score(rows, index, self.scale, self.num_heads)


def _taken(rows: Tensor, cut: CutRows) -> Tensor:
    """Of rows `[tokens * KV heads, ...]`, in whatever order of heads, those of evicted requests."""
    return rows[: cut.slots.shape[1]] if cut.tokens is None else rows[cut.tokens]
