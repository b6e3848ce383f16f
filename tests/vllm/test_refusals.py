"""What cannot work is refused by name before a model is loaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from vllm import EngineArgs
from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec

import lavakv.vllm
from lavakv.errors import LavaError, UnsupportedError
from lavakv.vllm.checks import check_attention, check_configuration, check_layers
from lavakv.vllm.settings import Settings
from lavakv.vllm.spec import EvictedSpec

NGRAM = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}
PLAIN = {
    "sinks": None, "alibi_slopes": None, "sliding_window": -1, "logits_soft_cap": 0,
    "kv_sharing_target_layer_name": None,
}  # fmt: skip


def configuration(folder, **changes: Any) -> Any:
    arguments = lavakv.vllm.engine_arguments(keep=0.25) | {"max_model_len": 512, "enforce_eager": True} | changes
    return EngineArgs(str(folder), **arguments).create_engine_config()


def check(config: Any) -> None:
    check_configuration(config, Settings.of(config.additional_config))


def test_what_works_passes(model_folder) -> None:
    check(configuration(model_folder))
    check(configuration(model_folder, **lavakv.vllm.engine_arguments(budget=200, window=64, policy="snapkv")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"enable_prefix_caching": True}, "prefix caching"),
        ({"scheduler_cls": None}, "scheduler"),
        ({"logits_processors": None}, "request check"),
        ({"logits_processors": ["lavakv.vllm:Arguments16"]}, "request check"),
        ({"additional_config": {}}, "additional_config"),
        ({"additional_config": {"lavakv": {"keep": 0.5, "max_bytes": 1}}}, "max_bytes"),
        ({"additional_config": {"lavakv": {"keep": 0.25, "policy": "kvzip+"}}}, "kvzip"),
        ({"additional_config": {"lavakv": {"keep": 0.25, "policy": "kvzip"}}}, "replay"),
        ({"additional_config": {"lavakv": {"policy": "residual"}}, "enforce_eager": False}, "not compiled"),
        ({"enable_lora": True}, "lora"),
        ({"kv_cache_dtype": "fp8"}, "KV cache dtype"),
        ({"enable_prompt_embeds": True}, "prompt embeddings"),
        ({"speculative_config": NGRAM}, "speculative"),
        ({"kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}}, "kv-transfer"),
    ],
    ids=str,
)  # fmt: skip
def test_refused_by_name(changes, message, model_folder) -> None:
    with pytest.raises(LavaError, match=message):
        check(configuration(model_folder, **changes))


@pytest.mark.parametrize(
    ("where", "name", "value", "message"),
    [
        ("device_config", "device_type", "tpu", "device"),
        ("parallel_config", "tensor_parallel_size", 2, "tensor parallelism"),
        ("parallel_config", "pipeline_parallel_size", 2, "pipeline parallelism"),
        ("parallel_config", "decode_context_parallel_size", 2, "decode context parallelism"),
        ("parallel_config", "prefill_context_parallel_size", 2, "prefill context parallelism"),
        ("parallel_config", "enable_dbo", True, "micro-batches"),
        ("cache_config", "block_size", 24, "block size"),
        ("cache_config", "kv_offloading_size", 1.0, "offloading"),
        ("model_config", "enable_sleep_mode", True, "sleep mode"),
        ("model_config", "runner_type", "pooling", "task"),
        ("model_config", "use_mla", True, "MLA"),
        ("model_config", "is_hybrid", True, "state-space"),
        ("model_config", "is_encoder_decoder", True, "decoder"),
        ("model_config", "is_multimodal_model", True, "text only"),
        ("model_config", "uses_alibi", True, "ALiBi"),
        ("", "use_v2_model_runner", True, "V2"),
        ("", "ec_transfer_config", object(), "ec-transfer"),
        ("", "kv_events_config", object(), "kv-events"),
    ],
)  # fmt: skip
def test_refused_where_this_machine_has_no_such_model(where, name, value, message, model_folder) -> None:
    """Of a configuration that passes, one value differs; each is a name that vLLM's configuration has."""
    config = configuration(model_folder)
    holder = getattr(config, where) if where else config
    assert hasattr(holder, name)
    changed = Overlay(holder, {name: value})
    with pytest.raises(UnsupportedError, match=message):
        check(Overlay(config, {where: changed}) if where else changed)


class Overlay:
    """An object of which some attributes are others."""

    def __init__(self, below: Any, own: dict[str, Any]) -> None:
        self._below, self._own = below, own

    def __getattr__(self, name: str) -> Any:
        if name in self._own:
            return self._own[name]
        if name == "use_ubatching":
            return self._own.get("enable_dbo", False)
        return getattr(self._below, name)


def spec(kind: type = EvictedSpec, **changes: Any) -> Any:
    import torch

    own = {"settings": Settings(keep=0.25)} if kind is EvictedSpec else {}
    return kind(**({"block_size": 32, "num_kv_heads": 2, "head_size": 32, "dtype": torch.float32} | own | changes))


def test_layers_of_one_kind_and_shape() -> None:
    check_layers({"a": spec(), "b": spec()})
    for layers, message in (
        ({}, "none"),
        ({"a": spec(FullAttentionSpec)}, "FullAttentionSpec"),
        ({"a": spec(), "b": spec(SlidingWindowSpec, sliding_window=64)}, "SlidingWindowSpec"),
        ({"a": spec(), "b": spec(num_kv_heads=4)}, "several shapes"),
        ({"a": spec(sliding_window=64)}, "sliding windows"),
        ({"a": spec(attention_chunk_size=64)}, "chunked attention"),
        ({"a": spec(head_size_v=64)}, "another size"),
        ({"a": spec(non_causal=True)}, "not causal"),
    ):
        with pytest.raises(UnsupportedError, match=message):
            check_layers(layers)


def test_a_group_of_layers_has_one_spec() -> None:
    assert EvictedSpec.merge([spec(), spec()]) == spec()
    with pytest.raises(UnsupportedError, match="several shapes"):
        EvictedSpec.merge([spec(), spec(num_kv_heads=4)])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("sinks", object(), "sinks"), ("alibi_slopes", object(), "ALiBi"), ("sliding_window", 64, "sliding"),
        ("logits_soft_cap", 30.0, "softcap"), ("kv_sharing_target_layer_name", "x", "shared"),
    ],
)  # fmt: skip
def test_attention_that_is_not_plain(name, value, message) -> None:
    check_attention(SimpleNamespace(**PLAIN))
    with pytest.raises(UnsupportedError, match=message):
        check_attention(SimpleNamespace(**(PLAIN | {name: value})))


def test_the_window_is_part_of_the_name_of_the_request_check() -> None:
    request = SimpleNamespace(extra_args={"lavakv_budget": 40})
    lavakv.vllm.Arguments.validate_params(request)
    wider = lavakv.vllm.Arguments64
    assert wider.window == 64
    with pytest.raises(ValueError, match="lavakv_budget: expected more than the window of 64"):
        wider.validate_params(request)
    with pytest.raises(AttributeError):
        lavakv.vllm.ArgumentsX  # noqa: B018
