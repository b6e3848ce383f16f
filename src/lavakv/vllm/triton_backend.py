"""vLLM's Triton backend for GPUs, with heads of unequal length in lavakv's own kernel. UNTESTED ON A GPU.

Nothing here has run on one: tests run it on a CPU with PyTorch in place of the kernels, lavakv's kernel in Triton's
interpreter, and compile that for GPUs. Eager only: a CUDA graph would replay the rows of another step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from vllm.v1.attention.backend import AttentionCGSupport
from vllm.v1.attention.backends.triton_attn import (
    TritonAttentionBackend,
    TritonAttentionImpl,
    TritonAttentionMetadata,
    TritonAttentionMetadataBuilder,
)
from vllm.v1.kv_cache_interface import KVCacheLayout

from lavakv.attention.pages import PagedSequences, attend_to_pages
from lavakv.vllm.attention import EvictingAttention, EvictingBuilder, EvictionStep, evicted_spec
from lavakv.vllm.entry_pages import EntryPages


class TritonBackend(TritonAttentionBackend):
    """vLLM's Triton backend, with eviction; untested on a GPU."""

    @staticmethod
    def get_impl_cls() -> type[Attention]:
        """The class that attends."""
        return Attention

    @staticmethod
    def get_builder_cls() -> type[MetadataBuilder]:
        """The class that prepares a step."""
        return MetadataBuilder

    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[Any, ...]:
        """Layer by layer, and the heads of a block one after the other, so that each is a page."""
        return (KVCacheLayout.LBHNC,)

    @classmethod
    def customize_spec(cls, spec: Any) -> Any:
        """The spec of a layer, with the settings for the scheduler's process."""
        return evicted_spec(super().customize_spec(spec))


@dataclass(kw_only=True)
class StepMetadata(EvictionStep, TritonAttentionMetadata):
    """What attention needs in one step."""


class MetadataBuilder(EvictingBuilder, TritonAttentionMetadataBuilder):
    """Splits the rows of each step."""

    _cudagraph_support = AttentionCGSupport.NEVER
    metadata = StepMetadata

    def pages_of(self, caches: list[Tensor]) -> EntryPages:
        """See the base class."""
        return EntryPages(caches)


class Attention(EvictingAttention, TritonAttentionImpl):
    """Writes and attends."""

    def attend_to_heads(self, step: StepMetadata, index: int, queries: Tensor) -> Tensor:
        """See the base class."""
        cut, pages = step.cut, step.state.pages
        assert cut is not None
        assert isinstance(pages, EntryPages)
        sequences = PagedSequences(cut.tables[index], cut.lengths[index], cut.starts, cut.most_new)
        return attend_to_pages(queries.contiguous(), pages.key_blocks, pages.value_blocks, sequences, self.scale)
