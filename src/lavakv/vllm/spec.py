"""The KV cache as vLLM's scheduler sees it. Importing this registers both classes, and so does unpickling a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry

from lavakv.errors import UnsupportedError
from lavakv.vllm.settings import Settings


@dataclass(frozen=True, kw_only=True)
class EvictedSpec(FullAttentionSpec):
    """Full attention whose prompts are evicted; carries the settings to the scheduler's process."""

    settings: Settings | None = None

    @classmethod
    def merge(cls, specs: list[EvictedSpec]) -> EvictedSpec:
        """The spec of a group of layers, which must all have the same."""
        if any(spec != specs[0] for spec in specs):
            raise UnsupportedError(
                "lavakv in vLLM: layers",
                expected="full attention of one shape in every layer",
                got="several shapes",
                fix="Use another model.",
            )
        return specs[0]


class EvictingManager(FullAttentionManager):
    """Blocks of requests: the first ones are freed once a prompt is processed, as many as the worker leaves unused.

    Attributes:
        requests: the scheduler's, by id; for budgets of their own.
        num_layers: layers of the group.
        blocks_freed: blocks that evictions have given back since the start.
        prompts_cut: evictions that gave back any.
    """

    requests: Mapping[str, Any]
    num_layers: int
    blocks_freed = 0
    prompts_cut = 0

    def remove_skipped_blocks(
        self, request_id: str, processed_computed_tokens: int, num_prompt_tokens: int | None = None
    ) -> None:
        """Free what an evicted request no longer needs; see the base class."""
        if num_prompt_tokens is None or processed_computed_tokens < num_prompt_tokens:
            return
        spec: EvictedSpec = self.kv_cache_spec
        assert spec.settings is not None
        settings = spec.settings.for_request(self.requests[request_id].sampling_params.extra_args)
        counts = settings.block_counts(num_prompt_tokens, self.num_layers, spec.num_kv_heads, self.block_size)
        before = self.block_pool.get_num_free_blocks()
        self._remove_blocks_in_range(request_id, 0, counts.freed)
        freed = self.block_pool.get_num_free_blocks() - before
        self.blocks_freed, self.prompts_cut = self.blocks_freed + freed, self.prompts_cut + (freed > 0)

    def entries_held(self, request: Any) -> int:
        """Entries of all heads and layers that a request of the scheduler holds; exact, whatever its heads hold."""
        spec: EvictedSpec = self.kv_cache_spec
        assert spec.settings is not None
        prompt, computed = request.num_prompt_tokens, request.num_computed_tokens
        settings = spec.settings.for_request(request.sampling_params.extra_args)
        freed = settings.block_counts(prompt, self.num_layers, spec.num_kv_heads, self.block_size).freed
        evicted = prompt - settings.tokens_per_head(prompt) if freed and computed >= prompt else 0
        return int((computed - evicted) * self.num_layers * spec.num_kv_heads)


KVCacheSpecRegistry._ensure_registered()  # registering before it would hide vLLM's own
KVCacheSpecRegistry.register(EvictedSpec, EvictingManager, uniform_type_base_spec=FullAttentionSpec)
