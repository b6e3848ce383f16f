"""Which layers of a cache can lose their last tokens without a trace, and how the uncompressed ones lose them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import PretrainedConfig
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

from lavakv.errors import CacheStateError, UnsupportedError

_WITHOUT_STATE = ("moe", "mlp")  # older transformers give such layers, too, a cache layer for recurrent states
_CONVOLUTION = ("conv", *_WITHOUT_STATE)


def check_no_recurrent_layers(layers: list[Any], config: PretrainedConfig, what: str) -> None:
    """Refuse what takes tokens back where a model has layers that cannot.

    Args:
        layers: of an empty cache.
        config: the model's config.
        what: the option that takes tokens back.

    Raises:
        UnsupportedError: a layer with a recurrent state.
    """
    kinds = getattr(config.get_text_config(decoder=True), "layer_types", None) or [None] * len(layers)
    for index, (layer, kind) in enumerate(zip(layers, kinds, strict=False)):
        if isinstance(layer, LinearAttentionLayer) and kind not in _CONVOLUTION:
            raise _not_croppable(what, f"layer {index} with a recurrent state")


def check_layer_crop(layer: Any, index: int, num_columns: int, seen: int) -> None:
    """Check that the uncompressed part of a layer can lose its last columns.

    Args:
        layer: any layer of a filled cache.
        index: its index.
        num_columns: columns to remove.
        seen: columns seen.

    Raises:
        UnsupportedError: a layer with a recurrent state, or one that holds an image's keys and not the text's.
        CacheStateError: the layer does not hold what would be visible again.
    """
    if num_columns and _holds_keys(layer) and layer.keys.shape[-2] != seen and not hasattr(layer, "sliding_window"):
        raise _not_croppable("cropping a cache", f"layer {index} with keys of something else than the text")
    for needed, held in _requirements(layer, index, seen - num_columns) if num_columns else ():
        if needed > held - num_columns:
            raise CacheStateError(
                f"cache layer {index} ({type(layer).__name__})",
                expected=f"what is visible once {num_columns} tokens are gone: the {needed} before them",
                got=f"{max(held - num_columns, 0)} of those",
                fix="Call `cache.activate_past_recording()` before the tokens that are to be taken back.",
            )


def _requirements(layer: Any, index: int, left: int) -> Iterator[tuple[int, int]]:
    """For each part of a layer that does not hold all columns: how many it needs when `left` are left, and has now."""
    if isinstance(layer, LinearAttentionLayer):
        if any(layer.is_recurrent_states_initialized.values()):
            raise _not_croppable("cropping a cache", f"layer {index} with a recurrent state")
        for state, convolution in _convolutions(layer):
            yield min(layer.conv_kernel_size[state], left), convolution.shape[-1] if layer.record_past else 0
    if hasattr(layer, "sliding_window") and _holds_keys(layer):
        yield min(layer.sliding_window - 1, left), layer.keys.shape[-2]


def crop_stock_layer(layer: Any, num_columns: int) -> None:
    """Let a layer of transformers, which was checked, lose its last columns and what it recorded beyond its window."""
    has_tokens = _convolutions(layer) if isinstance(layer, LinearAttentionLayer) else _holds_keys(layer)
    if has_tokens and (num_columns or getattr(layer, "record_past", False)):
        layer.crop(-num_columns)
        if hasattr(layer, "sliding_window") and _holds_keys(layer):  # it cuts views out of all that was recorded
            layer.keys, layer.values = layer.keys.clone(), layer.values.clone()


def crop_recurrent_part(layer: LinearAttentionLayer, num_columns: int) -> None:
    """The same for the part of a compressed layer that transformers made."""
    if layer.record_past and _convolutions(layer):
        LinearAttentionLayer.crop(layer, -num_columns)


def _convolutions(layer: Any) -> list[tuple[int, Any]]:
    return [(index, state) for index, state in layer.conv_states.items() if state is not None]


def _holds_keys(layer: Any) -> bool:
    """Whether a layer is one of transformers that has keys by now."""
    return isinstance(layer, DynamicLayer) and bool(layer.is_initialized)


def _not_croppable(what: str, got: str) -> UnsupportedError:
    return UnsupportedError(
        what,
        expected="layers that can lose their last tokens",
        got=got,
        fix="Go without it: such a layer cannot be put back as it was.",
    )
