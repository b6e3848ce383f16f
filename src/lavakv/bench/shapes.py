"""Known architectures with random weights, which need no download."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lavakv.errors import InputError

if TYPE_CHECKING:  # names of shapes are checked before PyTorch is loaded
    import torch


def _llama3_rope(factor: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def _shape(
    kind: str,
    layers: int,
    hidden: int,
    inner: int,
    heads: tuple[int, int],
    vocabulary: int,
    positions: int,
    **more: Any,
) -> dict[str, Any]:
    """A configuration; `heads` are query and KV heads."""
    return {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        **more,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "tiny": _shape("llama", 3, 64, 96, (4, 2), 128, 2048, tie_word_embeddings=False),
    "smollm2-135m": _shape(
        "llama", 30, 576, 1536, (9, 3), 49152, 8192,
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
    ),
    "qwen2.5-0.5b": _shape(
        "qwen2", 24, 896, 4864, (14, 2), 151936, 32768,
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    ),
    "llama-3.2-1b": _shape(
        "llama", 16, 2048, 8192, (32, 8), 128256, 131072, tie_word_embeddings=True, rope_parameters=_llama3_rope(32.0),
    ),
    "llama-3.1-8b": _shape(
        "llama", 32, 4096, 14336, (32, 8), 128256, 131072, tie_word_embeddings=False, rope_parameters=_llama3_rope(8.0),
    ),
}  # fmt: skip


def require_shape(name: str, argument: str = "shape") -> None:
    """Raise InputError unless there is a shape of that name."""
    if name not in SHAPES:
        fix = "Choose one of these, or name a model with --model."
        raise InputError(argument, expected=f"one of {', '.join(SHAPES)}", got=repr(name), fix=fix)


def shape_config(name: str) -> Any:
    """The transformers configuration of a named shape.

    Raises:
        InputError: an unknown shape.
    """
    from transformers import AutoConfig

    require_shape(name)
    settings = dict(SHAPES[name])
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


def random_model(name: str, dtype: torch.dtype, device: torch.device, attention: str | None = None) -> Any:
    """A model of a named shape with seeded random weights, made on the device itself.

    Args:
        name: a key of `SHAPES`.
        dtype: of the weights.
        device: where to make it; eight billion weights take seconds on a GPU and minutes on a CPU.
        attention: a transformers attention implementation, or None for the default.

    Raises:
        InputError: an unknown shape, or an attention implementation that is not available.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = shape_config(name)
    options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    torch.manual_seed(0)
    try:
        with device:
            return AutoModelForCausalLM.from_config(config, dtype=dtype, **options).eval()
    except (ValueError, ImportError) as error:
        raise InputError(
            "attention",
            expected="an attention implementation that this model has here",
            got=f"{attention!r} ({str(error).splitlines()[0]})",
            fix="Use sdpa or eager.",
        ) from error
