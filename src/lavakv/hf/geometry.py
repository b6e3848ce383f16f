"""What a model's configuration says about its layers: which are compressed, and how many KV heads they have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionAndFullAttentionLayer

from lavakv.errors import InputError, LavaError, NothingToCompressError, UnsupportedError
from lavakv.hf.positions import max_positions
from lavakv.policy.rules import ModelShape, Policy


@dataclass(frozen=True, slots=True)
class Geometry:
    """The layers of one model.

    Attributes:
        model_type: transformers' name of the architecture.
        num_layers: layers of the cache that transformers would build.
        layer_indices: the model's layers that are compressed.
        num_heads: KV heads of each of these.
        head_dims: size of one key of each of these, by the configuration.
        max_positions: tokens the model's position encoding reaches, or None if it says nothing.
        other_full_layers: whether full-attention layers that stay as transformers makes them share masks with these.
    """

    model_type: str
    num_layers: int
    layer_indices: tuple[int, ...]
    num_heads: tuple[int, ...]
    head_dims: tuple[int, ...]
    max_positions: int | None
    other_full_layers: bool


def stock_layers(config: PretrainedConfig) -> list[Any]:
    """The cache layers that transformers builds for a model."""
    return list(DynamicCache(config=config).layers)


def check_decoder(config: PretrainedConfig) -> None:
    """Check that a configuration is one of a decoder-only, causal model.

    Raises:
        InputError: not a transformers configuration.
        UnsupportedError: an encoder-decoder or bidirectional model.
    """
    if not isinstance(config, PretrainedConfig):
        raise InputError(
            "config", expected="a transformers config", got=type(config).__name__, fix="Pass `model.config`."
        )
    if config.is_encoder_decoder:
        raise _unsupported(
            config, "a decoder-only model", "an encoder-decoder model",
            "Its cross-attention is not compressed; use its own cache.",
        )  # fmt: skip
    if getattr(config.get_text_config(decoder=True), "use_bidirectional_attention", None) in (True, "all"):
        raise _unsupported(
            config,
            "causal attention",
            "use_bidirectional_attention",
            "It reads no prompt token by token: no cache helps.",
        )


def geometry_of(config: PretrainedConfig) -> Geometry:
    """Read a configuration.

    Raises:
        InputError: not a transformers configuration.
        UnsupportedError: an encoder-decoder or bidirectional model, one with latent keys and values (MLA), or a
            configuration of something else than a decoder.
        NothingToCompressError: no full-attention layer of its own.
    """
    check_decoder(config)
    try:
        return _read(config)
    except LavaError:
        raise
    except Exception as error:  # a configuration of something else makes its readers raise anything
        raise _unsupported(
            config, "the configuration of a decoder that transformers can make a cache for",
            f"one of another kind ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})",
            "Pass a causal language model's configuration; if it is one, this architecture is not supported.",
        ) from error  # fmt: skip


def _read(config: PretrainedConfig) -> Geometry:
    text = config.get_text_config(decoder=True)
    if any(getattr(layer_config(text, index), "kv_lora_rank", None) for index in range(_num_layers(text))):
        raise _unsupported(
            config, "one key and value per KV head", "latent keys and values (MLA)", "Use the full cache."
        )
    layers = stock_layers(config)
    stated = getattr(text, "max_position_embeddings", None)
    full = [index for index, layer in enumerate(layers) if _is_full(layer, stated)]
    cross = set(getattr(text, "cross_attention_layers", None) or ())  # they hold an image's keys, not the text's
    shared = _shared_layers(text, len(layers))
    compressed = [index for index in full if index not in cross | shared]
    if not compressed or not hasattr(layer_config(text, compressed[0]), "num_attention_heads"):
        raise NothingToCompressError(
            f"model {text.model_type!r}",
            expected="at least one full-attention layer that does not share its keys and values",
            got=_kinds(layers) if hasattr(text, "num_attention_heads") else "layers without attention heads",
            fix="Its cache does not grow with the prompt, or not in a way that lavakv knows; use it as it is.",
        )
    configs = [layer_config(text, index) for index in compressed]
    return Geometry(
        model_type=text.model_type,
        num_layers=len(layers),
        layer_indices=tuple(compressed),
        num_heads=tuple(_num_kv_heads(own, index) for own, index in zip(configs, compressed, strict=True)),
        head_dims=tuple(head_dim(own) for own in configs),
        max_positions=max_positions(text),
        other_full_layers=bool(set(full) & shared),
    )


def check_policy(policy: Policy, config: PretrainedConfig, geometry: Geometry) -> None:
    """Check that a policy can serve a model, if it was made for one alone.

    Raises:
        LavaError: as the policy's `check_model` raises it.
    """
    if policy.check_model is not None:
        text = config.get_text_config(decoder=True)
        own = (geometry.model_type, geometry.num_layers, geometry.layer_indices, geometry.num_heads, text.hidden_size)
        policy.check_model(ModelShape(*own))


def layer_config(text: PretrainedConfig, index: int) -> Any:
    """The configuration of one layer; most models have one for all, Gemma-4's full layers have larger heads."""
    if not getattr(text, "is_heterogeneous", False):
        return text
    return text.per_layer_config[index]


def _num_layers(text: PretrainedConfig) -> int:
    return int(getattr(text, "num_hidden_layers", 0) or 0) if getattr(text, "is_heterogeneous", False) else 1


def _kinds(layers: list[Any]) -> str:
    return f"layers of the kinds {', '.join(sorted({type(layer).__name__ for layer in layers}))}"


def _is_full(layer: Any, max_positions: int | None) -> bool:
    """Full attention, or a sliding window that reaches the model's last position (Phi-3-128k)."""
    if type(layer) is DynamicSlidingWindowLayer:
        return max_positions is not None and layer.sliding_window >= max_positions
    return type(layer) in (DynamicLayer, LinearAttentionAndFullAttentionLayer)


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


def _num_kv_heads(own: Any, index: int) -> int:
    """KV heads of one layer by its configuration; checked against the first keys that arrive."""
    heads = getattr(own, "num_global_key_value_heads", None) or getattr(own, "num_key_value_heads", None)
    if isinstance(heads, (list, tuple)):
        heads = heads[index]
    return int(heads or own.num_attention_heads)


def head_dim(own: Any) -> int:
    """Size of one key or value, by a layer's configuration."""
    stated = getattr(own, "head_dim", None) or getattr(own, "attention_head_dim", None)
    return int(stated or own.hidden_size // own.num_attention_heads)


def _unsupported(config: PretrainedConfig, expected: str, got: str, fix: str) -> UnsupportedError:
    return UnsupportedError(f"model {config.model_type!r}", expected=expected, got=got, fix=fix)
