"""vLLM's attention backend for a CPU, whose kernels also serve heads of unequal length, each as one sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm import _custom_ops as ops
from vllm import envs
from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadata,
    CPUAttentionMetadataBuilder,
)

from lavakv.vllm.attention import EvictingAttention, EvictingBuilder, EvictionStep, evicted_spec
from lavakv.vllm.cache_pages import CachePages
from lavakv.vllm.step import CutRows

_PACKED, _READABLE = "amx", "vec"  # vLLM's names of kernels


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
        """The spec of a layer, with the settings for the scheduler's process."""
        return evicted_spec(spec)


@dataclass(kw_only=True)
class StepMetadata(EvictionStep, CPUAttentionMetadata):
    """What attention needs in one step.

    Attributes:
        schedules: of each layer, how the kernel divides the work on evicted requests.
    """

    schedules: list[Tensor] | None = None


class MetadataBuilder(EvictingBuilder, CPUAttentionMetadataBuilder):
    """Splits the rows of each step; no kernels for AMX, which pack keys and values in pairs (see `CachePages`)."""

    metadata = StepMetadata
    isa: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.isa == _PACKED:
            self.isa = _READABLE
            self._set_isa_to_layers(self.layer_names)

    def pages_of(self, caches: list[Tensor]) -> CachePages:
        """See the base class."""
        return CachePages(caches, self.isa)

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> StepMetadata:
        """See the base class."""
        step: StepMetadata = super().build(common_prefix_len, common_attn_metadata, fast_build)
        if step.cut is not None:
            step.schedules = self._schedules(step.cut)
        return step

    def _schedules(self, cut: CutRows) -> list[Tensor]:
        """How the kernel divides the work on evicted requests in each layer."""
        return [
            ops.cpu_attn_get_scheduler_metadata(
                num_reqs=len(lengths), num_heads=self.num_heads // self.num_kv_heads, num_kv_heads=1,
                head_dim=self.head_dim, seq_lens=lengths, dtype=self.dtype, query_start_loc=cut.starts,
                causal=True, sliding_window_size=-1, isa=self.isa, enable_kv_split=envs.VLLM_CPU_ATTN_SPLIT_KV,
                dynamic_causal=None, kv_cache_dtype=self.kv_cache_dtype,
            )
            for lengths in cut.lengths
        ]  # fmt: skip


class Attention(EvictingAttention, CPUAttentionBackendImpl):
    """Writes and attends."""

    def attend_to_heads(self, step: StepMetadata, index: int, queries: Tensor) -> Tensor:
        """See the base class."""
        assert step.cut is not None
        assert step.schedules is not None
        pages: Any = step.state.pages
        found = torch.empty_like(queries)
        ops.cpu_attention_with_kv_cache(
            query=queries, key_cache=pages.key_blocks, value_cache=pages.value_blocks, output=found,
            query_start_loc=step.cut.starts, seq_lens=step.cut.lengths[index], scale=self.scale, causal=True,
            alibi_slopes=None, sliding_window=-1, block_table=step.cut.tables[index], softcap=0,
            scheduler_metadata=step.schedules[index], s_aux=None, dynamic_causal=None, k_scale=1.0, v_scale=1.0,
            kv_cache_dtype=self.kv_cache_dtype,
        )  # fmt: skip
        return found
