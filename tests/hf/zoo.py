"""Small random models of many architectures, made offline."""

from __future__ import annotations

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

_COMMON = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_HYBRID = {"head_dim": 8, "sliding_window": 8}

TEXT: dict[str, dict] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "phi3": {"sliding_window": 512},
    "olmo2": {},
    "gemma2": {**_HYBRID, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 5.0, "num_hidden_layers": 4},
    "gemma3_text": {
        **_HYBRID,
        "query_pre_attn_scalar": 16,
        "num_hidden_layers": 6,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
    },
    "gpt_oss": {**_MOE, **_HYBRID, "num_hidden_layers": 4},
    "mixtral": {**_MOE, "sliding_window": None},
    "qwen3_moe": {**_MOE, "head_dim": 8, "decoder_sparse_step": 1},
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512},
    "granite": {"attention_multiplier": 0.3},
    "cohere2": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention", "full_attention"]},
    "qwen3_next": {
        **_MOE,
        "head_dim": 8,
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "shared_expert_intermediate_size": 24,
    },
    "smollm3": {"no_rope_layers": [1, 1, 0]},
    "falcon_h1": {
        "head_dim": 8,
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
    },
    "zamba2": {
        "num_hidden_layers": 4,
        "num_key_value_heads": 4,
        "mamba_d_state": 8,
        "mamba_headdim": 8,
        "n_mamba_heads": 8,
        "mamba_ngroups": 1,
        "num_mem_blocks": 1,
        "chunk_size": 16,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "hybrid_layer_ids": [1, 3],
    },
    "gemma4_text": {  # as its real ones: full layers have larger heads, the last layers share keys
        "vocab_size_per_layer_input": 96,
        "hidden_size_per_layer_input": 8,
        "num_hidden_layers": 6,
        "head_dim": 8,
        "global_head_dim": 16,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "num_kv_shared_layers": 2,
    },
}
_WITHOUT_GROUPS = {"gpt_neox", "gpt2"}  # as many KV heads as query heads, and no setting for them


def common() -> dict[str, object]:
    """Settings that nearly all architectures know."""
    return dict(_COMMON)


def tiny_config(kind: str, **overrides: object) -> transformers.PretrainedConfig:
    """A small configuration of an architecture, random but fixed."""
    settings = {**_COMMON, **TEXT[kind], **overrides}
    if kind in _WITHOUT_GROUPS:
        del settings["num_key_value_heads"]
    return AutoConfig.for_model(kind, **settings)


def tiny(kind: str, dtype: torch.dtype = torch.float32, attention: str | None = None, **overrides: object):
    """A small random text model in eval mode; the same weights at every call."""
    torch.manual_seed(7)
    config = tiny_config(kind, **overrides)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    if "num_local_experts" in TEXT[kind]:
        model.set_experts_implementation("eager")  # the grouped kernel knows no float64
    return with_large_weights(model).eval().to(dtype)


def tiny_vision(kind: str, dtype: torch.dtype = torch.float32, attention: str | None = None):
    """A small random vision-language model, whose text part takes plain ids too."""
    torch.manual_seed(7)
    text = {**_COMMON, "head_dim": 8}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    if kind == "qwen2_vl":
        text["rope_parameters"] = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
        vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1, "patch_size": 4}
        extra = {"image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93}
    else:
        text.update(TEXT["gemma3_text"])
        vision.update(image_size=16, patch_size=4)
        extra = {"image_token_index": 90, "image_token_id": 90, "boi_token_index": 92, "eoi_token_index": 93}
        extra["mm_tokens_per_image"] = 4
    config = AutoConfig.for_model(kind, text_config=text, vision_config=vision, **extra)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32, attn_implementation=attention)
    return with_large_weights(model).eval().to(dtype)


def with_large_weights(model: torch.nn.Module) -> torch.nn.Module:
    """Weights so large that attention is far from even and evicting an entry shows in the logits."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def prompt(length: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """Random token ids `[batch, length]` without special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, 90, (batch, length), generator=generator)
