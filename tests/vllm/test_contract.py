"""What lavakv relies on in vLLM: names and parameters. A new release fails here first, and says by what."""

from __future__ import annotations

import dataclasses
import inspect
from importlib import import_module

import pytest
from vllm.config import AttentionConfig
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from lavakv.vllm import versions

_CPU, _MANAGER = "vllm.v1.attention.backends.cpu_attn", "vllm.v1.core.single_type_kv_cache_manager"
_GPU, _WORKER = "vllm.v1.attention.backends.triton_attn", "vllm.v1.worker.gpu_worker:Worker"
FUNCTIONS = {
    "vllm.v1.worker.cpu_worker:CPUWorker.__init__":
        "self vllm_config local_rank rank distributed_init_method is_driver_worker",
    "vllm.v1.worker.cpu_worker:CPUWorker.init_device": "self",
    "vllm.v1.worker.cpu_worker:CPUWorker.get_kv_cache_spec": "self",
    "vllm.v1.worker.cpu_worker:CPUWorker.sample_tokens": "self grammar_output",
    "vllm.v1.attention.backends.registry:register_backend": "backend class_path is_mamba",
    f"{_CPU}:CPUAttentionBackend.get_impl_cls": "",
    f"{_CPU}:CPUAttentionBackend.get_builder_cls": "",
    f"{_CPU}:CPUAttentionBackend.customize_spec": "spec",
    f"{_CPU}:CPUAttentionMetadataBuilder.build": "self common_prefix_len common_attn_metadata fast_build",
    f"{_CPU}:CPUAttentionBackendImpl.do_kv_cache_update": "self layer key value kv_cache slot_mapping",
    f"{_CPU}:CPUAttentionBackendImpl.forward":
        "self layer query key value kv_cache attn_metadata output output_scale output_block_scale",
    f"{_WORKER}.__init__": "self vllm_config local_rank rank distributed_init_method is_driver_worker",
    f"{_WORKER}.init_device": "self",
    f"{_WORKER}.get_kv_cache_spec": "self",
    f"{_WORKER}.sample_tokens": "self grammar_output",
    "vllm.v1.worker.block_table:BlockTable.get_cpu_tensor": "self",
    "vllm.v1.attention.backend:AttentionBackend.supported_kv_cache_layouts": "",
    f"{_GPU}:TritonAttentionBackend.get_impl_cls": "",
    f"{_GPU}:TritonAttentionBackend.get_builder_cls": "",
    f"{_GPU}:TritonAttentionBackend.customize_spec": "spec",
    f"{_GPU}:TritonAttentionMetadataBuilder.__init__": "self kv_cache_spec layer_names vllm_config device",
    f"{_GPU}:TritonAttentionMetadataBuilder.build": "self common_prefix_len common_attn_metadata fast_build",
    f"{_GPU}:TritonAttentionImpl.do_kv_cache_update": "self layer key value kv_cache slot_mapping",
    f"{_GPU}:TritonAttentionImpl.forward":
        "self layer query key value kv_cache attn_metadata output output_scale output_block_scale",
    "vllm.v1.kv_cache_interface:replace_as": "spec target_cls drop changes",
    "vllm.v1.kv_cache_interface:FullAttentionSpec.merge": "specs",
    "vllm.v1.kv_cache_spec_registry:KVCacheSpecRegistry.register":
        "kvcache_spec_cls manager_class uniform_type_base_spec",
    "vllm.v1.kv_cache_spec_registry:KVCacheSpecRegistry._ensure_registered": "vllm_config",
    f"{_MANAGER}:FullAttentionManager.remove_skipped_blocks":
        "self request_id processed_computed_tokens num_prompt_tokens",
    f"{_MANAGER}:FullAttentionManager._remove_blocks_in_range": "self request_id first_block last_block",
    "vllm.v1.core.sched.scheduler:Scheduler._reserve_prefill_lookahead":
        "self request num_computed_tokens num_new_tokens",
    "vllm.v1.core.sched.scheduler:Scheduler.update_from_output": "self scheduler_output model_runner_output",
    "vllm.v1.core.sched.scheduler:Scheduler.finish_requests": "self request_ids finished_status",
    "vllm.v1.sample.logits_processor:LogitsProcessor.validate_params": "sampling_params",
    "vllm.forward_context:get_forward_context": "",
    "vllm._custom_ops:cpu_attn_reshape_and_cache":
        "key value key_cache value_cache slot_mapping isa k_scale v_scale kv_cache_dtype",
    "vllm._custom_ops:cpu_attention_with_kv_cache":
        "query key_cache value_cache output query_start_loc seq_lens scale causal alibi_slopes sliding_window"
        " block_table softcap scheduler_metadata s_aux dynamic_causal k_scale v_scale kv_cache_dtype",
    "vllm._custom_ops:cpu_attn_get_scheduler_metadata":
        "num_reqs num_heads num_kv_heads head_dim seq_lens dtype query_start_loc causal sliding_window_size isa"
        " enable_kv_split dynamic_causal kv_cache_dtype",
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_the_parameters_that_are_used(name) -> None:
    module, path = name.split(":")
    found = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    assert list(inspect.signature(found).parameters) == FUNCTIONS[name].split()


def test_attributes_of_a_running_engine(engine) -> None:
    """What lavakv reads of the runner, the scheduler and the block manager."""
    name = engine.add([5] * 40, 4)
    engine.step()
    runner, scheduler = engine.state.runner, engine.scheduler
    (request_id,) = [one for one in runner.requests if one.startswith(name)]
    row = runner.input_batch.req_ids.index(request_id)
    assert int(runner.input_batch.num_prompt_tokens[row]) == 40
    assert runner.input_batch.num_reqs == 1
    assert runner.requests[request_id].sampling_params.extra_args is None
    assert scheduler.requests[request_id].num_prompt_tokens == 40
    (group,) = scheduler.kv_cache_config.kv_cache_groups
    assert len(group.layer_names) == 4
    assert scheduler.evicting_manager.block_size == 32
    engine.run()


def test_attributes_of_classes() -> None:
    """What lavakv reads of a step's metadata, and sets in the configuration."""
    fields = {field.name for field in dataclasses.fields(CommonAttentionMetadata)}
    assert {
        "query_start_loc", "query_start_loc_cpu", "seq_lens", "seq_lens_cpu_upper_bound", "num_reqs",
        "num_actual_tokens", "max_query_len", "block_table_tensor", "slot_mapping",
    } <= fields  # fmt: skip
    assert AttentionConfig().backend is None
    assert AttentionBackendEnum.TRITON_ATTN.get_path() == f"{_GPU}.TritonAttentionBackend"


def test_the_release_is_in_the_supported_range() -> None:
    assert versions.require_vllm().startswith("0.32")
