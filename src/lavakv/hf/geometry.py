"""What a model's configuration says about its layers: which are compressed, and how many KV heads they have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lavakv.errors import InputError, NothingToCompressError, UnsupportedError
from lavakv.hf.positions import max_positions


@dataclass(frozen=True, slots=True)
class Geometry:
    """The layers of one model.

    Attributes:
        model_type: transformers' name of the architecture.
        num_layers: layers of the cache that transformers would build.
        layer_indices: the model's layers that are compressed.
        num_heads: KV heads of each of these.
        head_dim: size of one key, by the configuration.
        max_positions: tokens the model's position encoding reaches, or None if it says nothing.
        other_full_layers: are there full-attention layers that stay as transformers makes them?
    """

    model_type: str
    num_layers: int
    layer_indices: tuple[int, ...]
    num_heads: tuple[int, ...]
    head_dim: int
    max_positions: int | None
    other_full_layers: bool


def stock_layers(config: PretrainedConfig) -> list[Any]:
    """The cache layers that transformers builds for a model."""
    return list(DynamicCache(config=config).layers)


def geometry_of(config: PretrainedConfig) -> Geometry:
    """Read a configuration.

    Raises:
        InputError: not a transformers configuration.
        UnsupportedError: an encoder-decoder model, or one with latent keys and values (MLA).
        NothingToCompressError: no full-attention layer of its own.
    """
    if not isinstance(config, PretrainedConfig):
        raise InputError(
            "config", expected="a transformers config", got=type(config).__name__, fix="Pass `model.config`."
        )
    if config.is_encoder_decoder:
        raise _unsupported(
            config, "a decoder-only model", "an encoder-decoder model", "Its cross-attention is not compressed."
        )
    text = config.get_text_config(decoder=True)
    if getattr(text, "kv_lora_rank", None) is not None:
        raise _unsupported(
            config, "one key and value per KV head", "latent keys and values (MLA)", "Use the full cache."
        )
    layers = stock_layers(config)
    stated = getattr(text, "max_position_embeddings", None)
    full = [index for index, layer in enumerate(layers) if _is_full(layer, stated)]
    compressed = [index for index in full if index not in _shared_layers(text, len(layers))]
    if not compressed:
        raise NothingToCompressError(
            f"model {text.model_type!r}",
            expected="at least one full-attention layer that does not share its keys and values",
            got=f"layers {sorted({type(layer).__name__ for layer in layers})}",
            fix="Its cache does not grow with the prompt; use it as it is.",
        )
    heads = tuple(_num_kv_heads(text, index) for index in compressed)
    other = len(compressed) < len(full)
    return Geometry(text.model_type, len(layers), tuple(compressed), heads, head_dim(text), max_positions(text), other)


def _is_full(layer: Any, max_positions: int | None) -> bool:
    """Full attention, or a sliding window that reaches the model's last position (Phi-3-128k)."""
    if type(layer) is DynamicSlidingWindowLayer:
        return max_positions is not None and layer.sliding_window >= max_positions
    return type(layer) is DynamicLayer


def _shared_layers(text: PretrainedConfig, num_layers: int) -> set[int]:
    """Layers whose keys and values serve other layers, or come from them (Gemma-3n, Gemma-4)."""
    modes = getattr(text, "kv_sharing_modes", None)
    if modes is not None:
        return {index for index, mode in enumerate(modes) if mode is not None}
    num_shared = getattr(text, "num_kv_shared_layers", None) or 0
    if not num_shared:
        return set()
    first_shared = text.num_hidden_layers - num_shared
    types = text.layer_types[:first_shared]
    donors = {first_shared - 1 - types[::-1].index(kind) for kind in set(types)}
    return donors | set(range(first_shared, num_layers))


def _num_kv_heads(text: PretrainedConfig, index: int) -> int:
    """KV heads of one layer; checked against the first keys that arrive."""
    per_layer = getattr(text, "per_layer_config", None)
    config = per_layer[index] if isinstance(per_layer, (list, tuple)) else text
    heads = getattr(config, "num_global_key_value_heads", None) or getattr(config, "num_key_value_heads", None)
    if isinstance(heads, (list, tuple)):
        heads = heads[index]
    return int(heads or config.num_attention_heads)


def head_dim(text: PretrainedConfig) -> int:
    """Size of one key or value, by the configuration."""
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def _unsupported(config: PretrainedConfig, expected: str, got: str, fix: str) -> UnsupportedError:
    return UnsupportedError(f"model {config.model_type!r}", expected=expected, got=got, fix=fix)
