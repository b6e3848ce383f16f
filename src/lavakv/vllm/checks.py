"""What cannot work inside vLLM, refused by name: the configuration before the model is loaded, then its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from lavakv.errors import UnsupportedError
from lavakv.policy.registry import get_policy
from lavakv.policy.rules import Policy
from lavakv.vllm.arguments import SCHEDULER, check_name
from lavakv.vllm.settings import Settings
from lavakv.vllm.versions import require_vllm

_ABOUT = "lavakv in vLLM"
_PAGE_TOKENS = 16  # the kernels take multiples
_AVAILABLE = ("tokens_per_head", "output_weight", "residual_norms", "prompt", "rotation")


class _Limit(NamedTuple):
    """One thing that cannot work: whether it is so, what it is about, what is possible, what is set, what to do."""

    is_broken: bool
    about: str
    expected: str
    got: object
    fix: str


def check_configuration(vllm_config: Any, settings: Settings) -> None:
    """Check vLLM's whole configuration.

    Raises:
        MissingExtraError, UnsupportedError: the first thing that cannot work.
        PolicyError: a policy that cannot be loaded.
    """
    require_vllm()
    for limits in (_of_engine, _of_cache, _of_model):
        for limit in limits(vllm_config):
            _refuse_if(limit)
    expected = f"lavakv.vllm:{check_name(settings.window)}"
    model = vllm_config.model_config
    given = model.logits_processors or []
    fix = f"Pass --logits-processors {expected}."
    _refuse_if(_Limit(expected not in given, "request check", expected, ", ".join(map(str, given)) or "none", fix))
    check_policy(get_policy(settings.policy), is_eager=bool(model.enforce_eager))


def check_policy(policy: Policy, *, is_eager: bool) -> None:
    """Check that a policy needs no more than the worker has, which sees prompts in chunks.

    Args:
        policy: of the server.
        is_eager: whether the model runs without compilation, so that its layers can be watched.

    Raises:
        UnsupportedError: it needs more; names what.
    """
    compiled = "residual_norms" in policy.needs and not is_eager
    fix = "Pass --enforce-eager, or use policy lava."
    _refuse_if(_Limit(compiled, f"policy {policy.name!r}", "a model that is not compiled", "a compiled one", fix))
    missing = [need for need in policy.needs if need not in _AVAILABLE]
    expected = "one that needs no replay of the prompt and not what its attention was given"
    fix = "Use lava, or another policy without those needs (`lavakv policies` lists them)."
    _refuse_if(_Limit(bool(missing), f"policy {policy.name!r}", expected, f"one that needs {', '.join(missing)}", fix))


def check_layers(specs: Mapping[str, Any]) -> None:
    """Check the KV cache specs of all layers: full attention of one shape.

    Raises:
        UnsupportedError: another kind of layer, or several shapes.
    """
    from lavakv.vllm.spec import EvictedSpec

    kinds = sorted({type(spec).__name__ for spec in specs.values()}) or ["none"]
    fix = "Use a model whose layers all have full attention of the same shape."
    expected = "full attention of one shape in every layer"
    _refuse_if(_Limit(kinds != [EvictedSpec.__name__], "layers", expected, ", ".join(kinds), fix))
    found = list(specs.values())
    _refuse_if(_Limit(any(spec != found[0] for spec in found), "layers", expected, "several shapes", fix))
    one = found[0]
    _refuse_if(_Limit(one.sliding_window is not None, "layers", expected, "sliding windows", fix))
    _refuse_if(_Limit(one.attention_chunk_size is not None, "layers", expected, "chunked attention", fix))
    _refuse_if(_Limit(one.non_causal, "layers", expected, "attention that is not causal", fix))
    _refuse_if(_Limit(one.head_size_v != one.head_size, "layers", expected, "values of another size than keys", fix))


def check_attention(attention: Any) -> None:
    """Check one layer's attention as vLLM's backends know it.

    Raises:
        UnsupportedError: sinks, ALiBi, a sliding window, a softcap or shared keys and values.
    """
    found = {
        "attention sinks": attention.sinks is not None,
        "ALiBi": attention.alibi_slopes is not None,
        "a sliding window": attention.sliding_window not in (-1, (-1, -1)),
        "a softcap": bool(attention.logits_soft_cap),
        "keys and values shared between layers": attention.kv_sharing_target_layer_name is not None,
    }
    for got, is_so in found.items():
        _refuse_if(_Limit(is_so, "attention", "plain causal attention", got, "Use another model."))


def _refuse_if(limit: _Limit) -> None:
    if limit.is_broken:
        about, expected = f"{_ABOUT}: {limit.about}", limit.expected
        raise UnsupportedError(about, expected=expected, got=str(limit.got), fix=limit.fix)


def _of_engine(config: Any) -> Iterator[_Limit]:
    """Limits of how the engine is run."""
    parallel, scheduler = config.parallel_config, config.scheduler_config.scheduler_cls
    device = config.device_config.device_type
    fix = "There is no backend for other devices."
    if device == "cuda":  # so vLLM calls ROCm as well
        from vllm.platforms import current_platform

        device = "rocm" if current_platform.is_rocm() else device
    yield _Limit(device not in ("cpu", "cuda"), "device", "cpu or cuda", device, fix)
    if device == "cuda":
        yield from _of_gpu(config)
    yield _Limit(scheduler != SCHEDULER, "scheduler", SCHEDULER, scheduler, f"Pass --scheduler-cls {SCHEDULER}.")
    sizes = {
        "tensor": parallel.tensor_parallel_size,
        "pipeline": parallel.pipeline_parallel_size,
        "prefill context": parallel.prefill_context_parallel_size,
        "decode context": parallel.decode_context_parallel_size,
    }
    for name, size in sizes.items():
        flag = f"--{name.replace(' ', '-')}-parallel-size"
        yield _Limit(size > 1, f"{name} parallelism", "1", size, f"Leave {flag} out, or set it to 1.")
    for name, flag in (
        ("speculative_config", "--speculative-config"),
        ("kv_transfer_config", "--kv-transfer-config"),
        ("ec_transfer_config", "--ec-transfer-config"),
        ("kv_events_config", "--kv-events-config"),
        ("lora_config", "--enable-lora"),
    ):
        yield _Limit(getattr(config, name) is not None, flag, "none", "one", f"Leave {flag} out.")
    yield _Limit(parallel.use_ubatching, "micro-batches", "off", "on", "Leave --enable-dbo and --ubatch-size out.")
    runner = "V2" if config.use_v2_model_runner else "V1"
    yield _Limit(runner != "V1", "model runner", "V1", runner, "Set VLLM_USE_V2_MODEL_RUNNER=0.")


def _of_gpu(config: Any) -> Iterator[_Limit]:
    """Limits of the backend for GPUs."""
    eager, ahead = bool(config.model_config.enforce_eager), bool(config.scheduler_config.async_scheduling)
    yield _Limit(not eager, "CUDA graphs", "none", "some", "Pass --enforce-eager.")
    yield _Limit(ahead, "asynchronous scheduling", "off", "on", "Pass --no-async-scheduling.")
    backend = getattr(config.attention_config.backend, "name", "TRITON_ATTN")
    fix = "Leave --attention-backend out."
    yield _Limit(backend != "TRITON_ATTN", "attention backend", "TRITON_ATTN", backend, fix)


def _of_cache(config: Any) -> Iterator[_Limit]:
    """Limits of the KV cache."""
    cache, dtype = config.cache_config, str(config.model_config.dtype).removeprefix("torch.")
    on = cache.enable_prefix_caching
    yield _Limit(bool(on), "prefix caching", "off", "on", "Pass --no-enable-prefix-caching.")
    given = str(cache.cache_dtype)
    yield _Limit(
        given not in ("auto", dtype), "KV cache dtype", f"auto or {dtype}", given, "Leave --kv-cache-dtype out."
    )
    size = cache.block_size
    fix = "Pass --block-size 32."
    yield _Limit(size % _PAGE_TOKENS != 0, "block size", f"a multiple of {_PAGE_TOKENS}", size, fix)
    offload = cache.kv_offloading_size
    yield _Limit(offload is not None, "KV offloading", "none", offload, "Leave --kv-offloading-size out.")


def _of_model(config: Any) -> Iterator[_Limit]:
    """Limits of the model."""
    model, other = config.model_config, "Use another model."
    name = ", ".join(model.architectures or [])
    yield _Limit(model.runner_type != "generate", "task", "generate", model.runner_type, "Use a generative model.")
    for is_so, about, expected in (
        (model.use_mla, "attention", "plain keys and values, no latent ones (MLA)"),
        (model.is_hybrid or model.is_attention_free, "layers", "full attention in every layer, no state-space layers"),
        (model.is_encoder_decoder, "model", "a decoder"),
        (model.is_multimodal_model, "model", "text only"),
        (model.uses_alibi, "attention", "no ALiBi"),
    ):
        yield _Limit(is_so, about, expected, name, other)
    yield _Limit(model.enable_sleep_mode, "sleep mode", "off", "on", "Leave --enable-sleep-mode out.")
    embeds = model.enable_prompt_embeds
    yield _Limit(embeds, "prompt embeddings", "off", "on", "Leave --enable-prompt-embeds out.")
